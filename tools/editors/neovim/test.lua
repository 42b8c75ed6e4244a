-- What a user of Neovim sees of mopd. `tools/editors/test` runs it, without a screen:
--
--   nvim --headless --clean --cmd "let g:mopd_config = 'folder'" -c "luafile tools/editors/neovim/test.lua"
--
-- `folder` takes this folder as a plugin, `book` what the page "Editors" of the book says to write into init.lua.
-- `mopd` must be on the PATH.

local here = vim.fs.dirname(debug.getinfo(1, "S").source:sub(2))
local root = vim.fs.dirname(vim.fs.dirname(vim.fs.dirname(vim.fs.abspath(here))))
local folder = vim.fn.tempname()
vim.fn.mkdir(folder, "p")

local function read(path)
  return table.concat(vim.fn.readfile(path), "\n")
end

local function holds(condition, message)
  if not condition then
    error(message, 2)
  end
end

--- What `look` gives once it gives something.
local function await(what, look)
  local found
  vim.wait(20000, function()
    found = look()
    return found
  end, 50)
  holds(found, "waited in vain for " .. what)
  return found
end

--- The configuration that the book gives: its blocks of Lua under "Neovim", but the line that names this folder.
local function of_the_book()
  local page = read(root .. "/book/src/editors.md")
  local section = page:match("\n## Neovim\n(.-)\n## ")
  local blocks = {}
  for block in section:gmatch("```lua\n(.-)```") do
    if not block:find("/path/to/", 1, true) then
      table.insert(blocks, block)
    end
  end
  holds(#blocks == 1, "the page has one configuration to write into init.lua")
  assert(load(blocks[1]))()
end

local function client()
  return await("the language server", function()
    return vim.lsp.get_clients({ bufnr = 0, name = "mopd" })[1]
  end)
end

local function open(name, text)
  local path = folder .. "/" .. name
  vim.fn.writefile(vim.split(text, "\n"), path)
  vim.cmd.edit(path)
  client()
end

local function lines()
  return table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), "\n")
end

--- The text of the window that floats.
local function floating()
  for _, window in ipairs(vim.api.nvim_list_wins()) do
    if vim.api.nvim_win_get_config(window).relative ~= "" then
      local buffer = vim.api.nvim_win_get_buf(window)
      return table.concat(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), "\n")
    end
  end
end

local tests = {
  {
    "a .mopd file starts the server",
    function()
      open("a.mopd", "let a = 1")
      holds(vim.bo.filetype == "mopd", "the type of the file is " .. vim.bo.filetype)
      holds(client().server_info.name == "mopd", "another server")
    end,
  },
  {
    "diagnostics stand where the compiler places them, and their fix mends the line",
    function()
      open("wrong.mopd", "// π𝄞\nlet a = 2 ** 3")
      local found = await("a diagnostic", function()
        return vim.diagnostic.get(0)[1]
      end)
      holds(found.message:find("a power is written `^`", 1, true), found.message)
      holds(found.lnum == 1 and found.col == 10, ("at %d:%d"):format(found.lnum, found.col))
      holds(found.severity == vim.diagnostic.severity.ERROR, "no error")
      vim.api.nvim_win_set_cursor(0, { 2, 10 })
      vim.lsp.buf.code_action({
        apply = true,
        filter = function(action)
          return action.title:find("write `^`", 1, true) ~= nil
        end,
      })
      await("the fix", function()
        return lines():find("2 ^ 3", 1, true)
      end)
      await("the diagnostic to go", function()
        return #vim.diagnostic.get(0) == 0
      end)
    end,
  },
  {
    "hover shows what a name is",
    function()
      open("hover.mopd", "/// Half of the peak.\nlet decay=0.5\nlet twice = 2 * decay")
      vim.api.nvim_win_set_cursor(0, { 3, 18 })
      vim.lsp.buf.hover()
      local text = await("the window", floating)
      holds(text:find("Half of the peak.", 1, true), text)
    end,
  },
  {
    "completion proposes names that fit (CTRL-X CTRL-O)",
    function()
      open("complete.mopd", "let decay = 0.5\nlet twice = 2 * dec")
      vim.api.nvim_win_set_cursor(0, { 2, 0 })
      local words
      local function look()
        local items = vim.fn.complete_info({ "items" }).items
        if #items == 0 then
          return vim.defer_fn(look, 50)
        end
        words = vim.tbl_map(function(item)
          return item.word
        end, items)
        vim.api.nvim_input("<Esc>")
      end
      vim.defer_fn(look, 50)
      vim.defer_fn(function()
        vim.api.nvim_input("<Esc>")
      end, 20000)
      -- In insert mode until one of the two ends it.
      vim.api.nvim_feedkeys(vim.keycode("A<C-x><C-o>"), "tx!", false)
      holds(words and vim.list_contains(words, "decay"), "proposed: " .. vim.inspect(words))
    end,
  },
  {
    "definition and references",
    function()
      open("names.mopd", "let decay = 0.5\nlet twice = 2 * decay")
      vim.api.nvim_win_set_cursor(0, { 2, 18 })
      vim.lsp.buf.definition()
      await("the cursor to move", function()
        return vim.api.nvim_win_get_cursor(0)[1] == 1
      end)
      vim.lsp.buf.references(nil, {
        on_list = function(list)
          vim.g.mopd_references = #list.items
        end,
      })
      await("references", function()
        return vim.g.mopd_references == 2
      end)
    end,
  },
  {
    "formatting is that of mopd fmt",
    function()
      open("format.mopd", 'experiment   "e"{seed=1}\nlet   a=1')
      vim.lsp.buf.format({ timeout_ms = 10000 })
      holds(lines() == 'experiment "e" { seed = 1 }\nlet a = 1', lines())
    end,
  },
  {
    "hints show units",
    function()
      open("hints.mopd", read(root .. "/stdlib/gkd.mopd"))
      vim.lsp.inlay_hint.enable(true, { bufnr = 0 })
      await("a hint", function()
        return #vim.lsp.inlay_hint.get({ bufnr = 0 }) > 0
      end)
    end,
  },
}

local with_parser = {
  {
    "tree-sitter colours the words and folds the blocks",
    function()
      open("colours.mopd", 'experiment "e" {\n  seed = 1\n}\n// a comment')
      local function captures(row, column)
        vim.treesitter.get_parser(0):parse(true)
        return vim.tbl_map(function(capture)
          return capture.capture
        end, vim.treesitter.get_captures_at_pos(0, row, column))
      end
      holds(vim.treesitter.highlighter.active[vim.api.nvim_get_current_buf()], "no highlighting is active")
      holds(vim.list_contains(captures(0, 1), "keyword"), vim.inspect(captures(0, 1)))
      holds(vim.list_contains(captures(0, 12), "string"), vim.inspect(captures(0, 12)))
      holds(vim.list_contains(captures(3, 3), "comment"), vim.inspect(captures(3, 3)))
      await("a fold", function()
        return vim.fn.foldlevel(2) == 1
      end)
    end,
  },
}

local function run()
  vim.o.showmode = false
  holds(vim.fn.executable("mopd") == 1, "there is no mopd on the PATH")
  if vim.g.mopd_config == "folder" then
    vim.opt.runtimepath:prepend(vim.fs.abspath(here))
    vim.cmd.runtime("plugin/mopd.lua")
    vim.list_extend(tests, with_parser)
  else
    of_the_book()
  end
  local failed = 0
  for _, test in ipairs(tests) do
    local good, problem = xpcall(test[2], debug.traceback)
    failed = failed + (good and 0 or 1)
    io.stdout:write((good and "ok   " or "FAIL ") .. test[1] .. (good and "" or "\n" .. problem) .. "\n")
  end
  local version = tostring(vim.version())
  io.stdout:write(("Neovim %s, %s: %d of %d passed\n"):format(version, vim.g.mopd_config, #tests - failed, #tests))
  return failed
end

local good, failed = xpcall(run, debug.traceback)
if not good then
  io.stdout:write(failed .. "\n")
end
vim.fn.delete(folder, "rf")
vim.cmd(good and failed == 0 and "qall!" or "cquit! 1")
