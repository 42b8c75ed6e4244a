; Captures as Neovim and Helix read them: what is between the brackets is one level in.

[
  (block)
  (arms)
  (axes)
  (use_list)
  (list)
  (arguments)
  (parameters)
  (parenthesised)
] @indent.begin @indent

["}" "]" ")"] @indent.end @indent.branch @outdent
