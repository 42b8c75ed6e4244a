vim.filetype.add({ extension = { mopd = "mopd" } })
vim.lsp.enable("mopd")
