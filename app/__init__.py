"""The application that every domain shares: command line, module, data contract, results."""
