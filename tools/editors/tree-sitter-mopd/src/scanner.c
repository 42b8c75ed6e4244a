// Newlines, whose meaning depends on the brackets around them, and so the brackets too.
//
// A newline ends an item or entry at the top level and inside braces, unless the line ends in an operator or the next one begins
// with `|>` or `where name =`; inside parentheses and square brackets it is blank. The layout pass of the compiler has the same
// rule (`lang/src/syntax/layout/mod.rs`). Where the parser can go on after an operator it asks for CONTINUED; where it is asked for
// none of the three, a newline is a mistake.

#include "tree_sitter/alloc.h"
#include "tree_sitter/parser.h"

enum TokenType {
  NEWLINE,
  CONTINUED,
  BLANK_NEWLINE,
  OPEN_PAREN,
  CLOSE_PAREN,
  OPEN_BRACKET,
  CLOSE_BRACKET,
  OPEN_BRACE,
  CLOSE_BRACE,
  IN_LINES,
};

// The language allows 256 levels. Deeper ones are counted but not remembered: they are taken for parentheses.
#define REMEMBERED 512

typedef struct {
  uint32_t depth;
  char open[REMEMBERED];
} Scanner;

void *tree_sitter_mopd_external_scanner_create(void) { return ts_calloc(1, sizeof(Scanner)); }

void tree_sitter_mopd_external_scanner_destroy(void *payload) { ts_free(payload); }

static uint32_t remembered(const Scanner *scanner) { return scanner->depth < REMEMBERED ? scanner->depth : REMEMBERED; }

unsigned tree_sitter_mopd_external_scanner_serialize(void *payload, char *buffer) {
  const Scanner *scanner = payload;
  unsigned length = remembered(scanner);
  for (unsigned byte = 0; byte < 4; byte++) {
    buffer[byte] = (char)(scanner->depth >> (8 * byte) & 0xff);
  }
  for (unsigned at = 0; at < length; at++) {
    buffer[4 + at] = scanner->open[at];
  }
  return 4 + length;
}

void tree_sitter_mopd_external_scanner_deserialize(void *payload, const char *buffer, unsigned length) {
  Scanner *scanner = payload;
  scanner->depth = 0;
  if (length < 4) {
    return;
  }
  for (unsigned byte = 0; byte < 4; byte++) {
    scanner->depth |= (uint32_t)(unsigned char)buffer[byte] << (8 * byte);
  }
  for (unsigned at = 0; at < length - 4; at++) {
    scanner->open[at] = buffer[4 + at];
  }
}

static char innermost(const Scanner *scanner) {
  if (scanner->depth == 0) {
    return 0;
  }
  return scanner->depth <= REMEMBERED ? scanner->open[scanner->depth - 1] : '(';
}

static bool bracket(Scanner *scanner, TSLexer *lexer, const bool *valid_symbols, enum TokenType type, char open, bool opens) {
  if (!valid_symbols[type]) {
    return false;
  }
  if (opens) {
    if (scanner->depth < REMEMBERED) {
      scanner->open[scanner->depth] = open;
    }
    scanner->depth++;
  } else if (innermost(scanner) == open) {
    scanner->depth--;
  }
  lexer->advance(lexer, false);
  lexer->mark_end(lexer);
  lexer->result_symbol = type;
  return true;
}

static bool is_blank(int32_t character) {
  return character == ' ' || character == '\t' || character == '\r' || character == '\f';
}

static void skip_blanks(TSLexer *lexer) {
  while (is_blank(lexer->lookahead)) {
    lexer->advance(lexer, false);
  }
}

static bool is_word(int32_t character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') || (character >= '0' && character <= '9') ||
         character == '_';
}

// Whether the next line with something on it goes on from the one before. Looks ahead only: the token has its end already.
static bool is_tail(TSLexer *lexer) {
  for (;;) {
    while (is_blank(lexer->lookahead) || lexer->lookahead == '\n') {
      lexer->advance(lexer, false);
    }
    if (lexer->lookahead != '/') {
      break;
    }
    lexer->advance(lexer, false);
    if (lexer->lookahead != '/') {
      return false;
    }
    while (lexer->lookahead != '\n' && !lexer->eof(lexer)) {
      lexer->advance(lexer, false);
    }
  }
  if (lexer->lookahead == '|') {
    lexer->advance(lexer, false);
    return lexer->lookahead == '>';
  }
  for (const char *letter = "where"; *letter; letter++) {
    if (lexer->lookahead != *letter) {
      return false;
    }
    lexer->advance(lexer, false);
  }
  if (!is_blank(lexer->lookahead)) {
    return false;
  }
  skip_blanks(lexer);
  if (!is_word(lexer->lookahead)) {
    return false;
  }
  while (is_word(lexer->lookahead)) {
    lexer->advance(lexer, false);
  }
  skip_blanks(lexer);
  if (lexer->lookahead != '=') {
    return false;
  }
  lexer->advance(lexer, false);
  return lexer->lookahead != '=';
}

bool tree_sitter_mopd_external_scanner_scan(void *payload, TSLexer *lexer, const bool *valid_symbols) {
  Scanner *scanner = payload;
  // After a mistake everything is asked for. A text asks for no bracket.
  if (valid_symbols[IN_LINES] && !valid_symbols[OPEN_PAREN]) {
    return false;
  }
  while (is_blank(lexer->lookahead)) {
    lexer->advance(lexer, true);
  }
  switch (lexer->lookahead) {
    case '(': return bracket(scanner, lexer, valid_symbols, OPEN_PAREN, '(', true);
    case ')': return bracket(scanner, lexer, valid_symbols, CLOSE_PAREN, '(', false);
    case '[': return bracket(scanner, lexer, valid_symbols, OPEN_BRACKET, '[', true);
    case ']': return bracket(scanner, lexer, valid_symbols, CLOSE_BRACKET, '[', false);
    case '{': return bracket(scanner, lexer, valid_symbols, OPEN_BRACE, '{', true);
    case '}': return bracket(scanner, lexer, valid_symbols, CLOSE_BRACE, '{', false);
    case '\n': break;
    default: return false; // A comment before a newline is read first; then this is asked again.
  }
  lexer->advance(lexer, false);
  lexer->mark_end(lexer);
  char around = innermost(scanner);
  enum TokenType type;
  if (around == '(' || around == '[') {
    type = BLANK_NEWLINE;
  } else if (valid_symbols[CONTINUED] && !valid_symbols[NEWLINE]) {
    type = CONTINUED;
  } else if (is_tail(lexer)) {
    type = BLANK_NEWLINE;
  } else {
    type = NEWLINE; // Also where the parser recovers from a mistake and takes anything.
  }
  lexer->result_symbol = type;
  return valid_symbols[type];
}
