; What a name means outside of its own item takes the compiler (`mopd lsp`); parameters and names of an item do not.

[
  (source_file)
  (fn_item)
  (stage_item)
  (objective_item)
  (template_item)
  (divergence_item)
  (sum_item)
  (rollout_item)
  (teacher_item)
  (model_item)
  (block)
  (for_expression)
  (arm)
] @local.scope

(parameter name: (identifier) @local.definition)
(family name: (identifier) @local.definition)
(for_head name: (identifier) @local.definition)
(for_head carried: (identifier) @local.definition)
(let_statement name: (identifier) @local.definition)
(state_statement name: (identifier) @local.definition)
(let_item name: (identifier) @local.definition)
(term_statement name: (identifier) @local.definition)
(where_binding name: (identifier) @local.definition)

(identifier) @local.reference
