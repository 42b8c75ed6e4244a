//! Semantic highlighting.

use lsp_types::{
    SemanticToken, SemanticTokenModifier, SemanticTokenType, SemanticTokens, SemanticTokensParams,
    SemanticTokensResult,
};
use mopd_lang::ide::{self, SemanticTokenKind};

use super::super::dispatch::RequestError;
use super::super::session::Session;

/// In the order of their numbers. All names are standard ones of the protocol, so that every theme knows
/// them.
const TYPES: &[(SemanticTokenKind, SemanticTokenType)] = &[
    (SemanticTokenKind::Comment, SemanticTokenType::COMMENT),
    (SemanticTokenKind::Text, SemanticTokenType::STRING),
    (SemanticTokenKind::Number, SemanticTokenType::NUMBER),
    (SemanticTokenKind::Keyword, SemanticTokenType::KEYWORD),
    (SemanticTokenKind::Operator, SemanticTokenType::OPERATOR),
    (SemanticTokenKind::Namespace, SemanticTokenType::NAMESPACE),
    (SemanticTokenKind::Type, SemanticTokenType::TYPE),
    (SemanticTokenKind::Function, SemanticTokenType::FUNCTION),
    (SemanticTokenKind::Class, SemanticTokenType::CLASS),
    (SemanticTokenKind::Variable, SemanticTokenType::VARIABLE),
    (SemanticTokenKind::Parameter, SemanticTokenType::PARAMETER),
    (SemanticTokenKind::Property, SemanticTokenType::PROPERTY),
    (SemanticTokenKind::EnumMember, SemanticTokenType::ENUM_MEMBER),
    (SemanticTokenKind::Signal, SemanticTokenType::VARIABLE),
];

pub fn types() -> Vec<SemanticTokenType> {
    TYPES.iter().map(|(_, name)| name.clone()).collect()
}

pub fn modifiers() -> Vec<SemanticTokenModifier> {
    vec![
        SemanticTokenModifier::DECLARATION,
        SemanticTokenModifier::DEFAULT_LIBRARY,
        SemanticTokenModifier::DOCUMENTATION,
    ]
}

pub fn handle(session: &Session, params: SemanticTokensParams) -> Result<SemanticTokensResult, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let mut data = Vec::new();
    let mut last = lines.position(0);
    for token in ide::semantic_tokens(&document.text, &document.analysis) {
        let (start, end) = (token.start as usize, token.end as usize);
        let place = lines.position(start);
        let kind = TYPES.iter().position(|(meaning, _)| *meaning == token.meaning).unwrap_or_default();
        let flags = [token.declares, token.library, token.documentation];
        data.push(SemanticToken {
            delta_line: place.line - last.line,
            delta_start: if place.line == last.line {
                place.character - last.character
            } else {
                place.character
            },
            length: lines.width(start, end),
            token_type: kind as u32,
            token_modifiers_bitset: flags.iter().enumerate().map(|(bit, set)| u32::from(*set) << bit).sum(),
        });
        last = place;
    }
    Ok(SemanticTokensResult::Tokens(SemanticTokens { result_id: None, data }))
}
