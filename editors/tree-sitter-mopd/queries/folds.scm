[
  (block)
  (arms)
  (sweep_body)
  (use_list)
  (list)
  (arguments)
  (parameters)
  (parenthesised)
] @fold
