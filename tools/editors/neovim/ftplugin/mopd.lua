vim.bo.commentstring = "// %s"
vim.bo.comments = ":///,://!,://"
vim.bo.expandtab = true
vim.bo.shiftwidth = 2
vim.bo.smartindent = true

-- Colours and folds by tree-sitter, where the parser was built: see the book's page "Editors".
if vim.treesitter.language.add("mopd") then
  vim.treesitter.start()
  vim.wo[0][0].foldmethod = "expr"
  vim.wo[0][0].foldexpr = "v:lua.vim.treesitter.foldexpr()"
  vim.wo[0][0].foldlevel = 99
end
