"""Revision and checksums of GUE's files as DeepGene's repository serves them."""

REVISION = "3ec5048b3dcc68bcb1d0a144b7c038af79d52ccf"
# Checksums of train.csv, dev.csv and test.csv; those of a task that is not here are recorded at its first download.
SHA256 = {
    "tf_0": (
        "930080e019fb92961cbd71998839466c2fc4c34da8fc174999a2ed04ef46822f",
        "17ff638046d146102a86b727adc9ddead9f1f1793577a38961e1f3319da7f738",
        "d29934d0df424a91ef70f6a62671d9d1c4661b485d7010983b49c8bcfba6aeab",
    ),
    "tf_1": (
        "29dc3c962cc4e4d7161238bb4d0b84583f7794b246a622f81bf30e83e3ae8685",
        "fbffd591300e9ef192d131c139322cbe8e3fb87fae4f52236f64588d3975b8d1",
        "8995d9d9176d56aa6e3a7014dfcf61ad45bc25a59fba1faca9864250ce42008a",
    ),
    "tf_3": (
        "c4191038363919af593d4f68428e00e6320e3a35902575f1c5c0828954e25a88",
        "b878776f73bd503a371d1d8c0a77058da409ff3f3799901e017f764b07a0d0ef",
        "56d8d76fdcf98c8a444b26794099ef26185872371f62a7565f602181dd533903",
    ),
    "mouse_0": (
        "6f507b130c5a94c63f4a36748da66579cd682a34f7296ab08e4805ee75091a35",
        "f44e2d3e29a778364d329cfef046deccdfb484c12af6dde7f04b7de8bcb8bf9a",
        "e2c54b74410f1d263f9dcba371f0d50b5f207960673e385cd4b95989e3e6d6be",
    ),
    "mouse_3": (
        "3e80c3c1d3b4ce20bb789cd7faa73c6749fab835d781afa061a3444f7c33a479",
        "f0324893df34769670ed0cf89c8a53023625453bc148f3ba7760bb5d2b7816ad",
        "5e11dfe263259e092161d1ec59cec751bcce3842a01fe421bf9746ba542335f1",
    ),
    "prom_core_all": (
        "a36e0bbf2b59e01479bb904534d310041b493fec9221ccd74b518893d74054ed",
        "98dd5d2b5df3c93cad9fa0a4a36078d28fa95b7bf9ab73fb2e5ba1fa74877f2b",
        "b1babbb52abd0fb5328eccc4ce8ab60d0a58d28bdc88c30f8e2140cf1684ce0c",
    ),
    "prom_core_notata": (
        "78bfa494d14fa12f3a661fbd37b8d252f3cf9edf4a8f98d60832fb56e6f9aab9",
        "ced43fdbc8c76187fe0589dfeef07f4554c3374837236b80b02eea392795d548",
        "1ef44c266ca1368e8b438f6b0565b865aa203de8e1c89fc513357311b58bf97c",
    ),
    "prom_core_tata": (
        "6ff19d1296628f1ff30f663f154596aeda27e2c48b8d8c35926029a33c64d3fb",
        "dcacb3b86726376899ad4023339ccaae04a9150f41c34268b4ab38e447316a70",
        "35ba337b4f1f3ca53c5045d51ab6eaedbd382619527a38d4a41f5402015dbad4",
    ),
    "prom_300_tata": (
        "d0dd45bad89aee2564b8831d38a393989942d79b673203e7eb50e19ec8e6242e",
        "4de0f8163d964e4004f0a11036d9a9c5ec6fe2ad5953f962acf66150a2f44592",
        "30432e9845277559043c2bb3bfed37b9bc7efc15748880f3adeeaddc16b76deb",
    ),
}
