from app.door import main

if __name__ == "__main__":
    main()
