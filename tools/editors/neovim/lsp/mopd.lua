-- The language server. `vim.lsp.config("mopd", { cmd = ... })` in an init.lua changes what is here.
return {
  cmd = { "mopd", "lsp" },
  filetypes = { "mopd" },
  root_markers = { ".git" },
}
