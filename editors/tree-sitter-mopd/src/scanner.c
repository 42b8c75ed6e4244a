// The one token that depends on more than its own characters: a newline where it ends an item or entry.
//
// The parser asks for it only in states in which something can end. After an operator, inside parentheses and after a comma of a
// list it does not, and the newline is blank space like any other. So no state is kept, and nothing has to be restored.

#include "tree_sitter/parser.h"

enum TokenType { NEWLINE };

void *tree_sitter_mopd_external_scanner_create(void) { return NULL; }

void tree_sitter_mopd_external_scanner_destroy(void *payload) { (void)payload; }

unsigned tree_sitter_mopd_external_scanner_serialize(void *payload, char *buffer) {
  (void)payload;
  (void)buffer;
  return 0;
}

void tree_sitter_mopd_external_scanner_deserialize(void *payload, const char *buffer, unsigned length) {
  (void)payload;
  (void)buffer;
  (void)length;
}

static bool is_blank(int32_t character) {
  return character == ' ' || character == '\t' || character == '\r' || character == '\f';
}

bool tree_sitter_mopd_external_scanner_scan(void *payload, TSLexer *lexer, const bool *valid_symbols) {
  (void)payload;
  if (!valid_symbols[NEWLINE]) {
    return false;
  }
  while (is_blank(lexer->lookahead)) {
    lexer->advance(lexer, true);
  }
  if (lexer->lookahead != '\n') {
    return false; // A comment before the newline is read first; then this is asked again.
  }
  lexer->advance(lexer, false);
  lexer->mark_end(lexer);
  lexer->result_symbol = NEWLINE;
  return true;
}
