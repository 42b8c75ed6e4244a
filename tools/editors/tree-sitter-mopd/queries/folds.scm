[
  (block)
  (arms)
  (axes)
  (use_list)
  (list)
  (arguments)
  (parameters)
  (parenthesised)
] @fold
