//! The capabilities of server and client. The server has no feature that is not advertised here.

use lsp_server::Request;
use lsp_types::{
    CodeActionKind, CodeActionOptions, CodeActionProviderCapability, CodeLensOptions, CompletionOptions,
    DocumentLinkOptions, DocumentOnTypeFormattingOptions, FoldingRangeProviderCapability,
    HoverProviderCapability, InitializeResult, OneOf, PositionEncodingKind, RenameOptions, SaveOptions,
    SelectionRangeProviderCapability, SemanticTokensFullOptions, SemanticTokensLegend, SemanticTokensOptions,
    ServerCapabilities, ServerInfo, SignatureHelpOptions, TextDocumentSyncCapability, TextDocumentSyncKind,
    TextDocumentSyncOptions, TextDocumentSyncSaveOptions, Uri, WorkspaceFoldersServerCapabilities,
    WorkspaceServerCapabilities,
};
use serde_json::{Value, json};

use super::convert::PositionEncoding;
use super::requests::semantic_tokens;

/// The capabilities of the editor.
#[derive(Clone, Debug)]
pub struct EditorClient {
    pub encoding: PositionEncoding,
    /// Shows the related places of a diagnostic.
    pub related_information: bool,
    /// Can watch files for the server.
    pub watches_files: bool,
    /// Accepts a definition with the range of the requested name.
    pub links: bool,
    pub nested_symbols: bool,
    /// Shows a link for the code of a diagnostic.
    pub code_descriptions: bool,
    /// Supports snippets, and has none of its own for the language.
    pub snippets: bool,
    /// Has the commands of our extension, for code lenses.
    pub runs_commands: bool,
    /// The folders that are open in the editor.
    pub roots: Vec<Uri>,
}

impl EditorClient {
    /// Reads the parameters of `initialize`. A missing or invalid one counts as not supported.
    pub fn from_initialize(params: &Value) -> EditorClient {
        let flag = |path: &str| params.pointer(path).and_then(Value::as_bool).unwrap_or(false);
        let encodings = params.pointer("/capabilities/general/positionEncodings").and_then(Value::as_array);
        let utf8 = encodings.is_some_and(|known| known.iter().any(|encoding| encoding == "utf-8"));
        EditorClient {
            encoding: if utf8 { PositionEncoding::Utf8 } else { PositionEncoding::Utf16 },
            related_information: flag("/capabilities/textDocument/publishDiagnostics/relatedInformation"),
            watches_files: flag("/capabilities/workspace/didChangeWatchedFiles/dynamicRegistration"),
            links: flag("/capabilities/textDocument/definition/linkSupport"),
            nested_symbols: flag(
                "/capabilities/textDocument/documentSymbol/hierarchicalDocumentSymbolSupport",
            ),
            code_descriptions: flag("/capabilities/textDocument/publishDiagnostics/codeDescriptionSupport"),
            snippets: flag("/capabilities/textDocument/completion/completionItem/snippetSupport")
                && !flag("/initializationOptions/snippets"),
            runs_commands: flag("/initializationOptions/commands"),
            roots: roots(params),
        }
    }
}

/// Editors send a list of folders; older ones send a single folder.
fn roots(params: &Value) -> Vec<Uri> {
    let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    match params.get("workspaceFolders").and_then(Value::as_array) {
        Some(folders) => folders.iter().filter_map(|folder| address(folder.get("uri")?)).collect(),
        None => params.get("rootUri").and_then(address).into_iter().collect(),
    }
}

/// The response to `initialize`.
pub fn result(client: &EditorClient) -> InitializeResult {
    let encoding = match client.encoding {
        PositionEncoding::Utf8 => PositionEncodingKind::UTF8,
        PositionEncoding::Utf16 => PositionEncodingKind::UTF16,
    };
    let sync = TextDocumentSyncOptions {
        open_close: Some(true),
        change: Some(TextDocumentSyncKind::INCREMENTAL),
        save: Some(TextDocumentSyncSaveOptions::SaveOptions(SaveOptions { include_text: Some(false) })),
        ..TextDocumentSyncOptions::default()
    };
    let characters = |text: &str| Some(text.chars().map(|character| character.to_string()).collect());
    let capabilities = ServerCapabilities {
        position_encoding: Some(encoding),
        text_document_sync: Some(TextDocumentSyncCapability::Options(sync)),
        hover_provider: Some(HoverProviderCapability::Simple(true)),
        completion_provider: Some(CompletionOptions {
            trigger_characters: characters(".:={[( \"/"),
            ..CompletionOptions::default()
        }),
        signature_help_provider: Some(SignatureHelpOptions {
            trigger_characters: characters("(,"),
            retrigger_characters: characters(":"),
            ..SignatureHelpOptions::default()
        }),
        definition_provider: Some(OneOf::Left(true)),
        references_provider: Some(OneOf::Left(true)),
        document_highlight_provider: Some(OneOf::Left(true)),
        document_symbol_provider: Some(OneOf::Left(true)),
        workspace_symbol_provider: Some(OneOf::Left(true)),
        code_action_provider: Some(CodeActionProviderCapability::Options(CodeActionOptions {
            code_action_kinds: Some(vec![
                CodeActionKind::QUICKFIX,
                CodeActionKind::REFACTOR,
                CodeActionKind::SOURCE_FIX_ALL,
            ]),
            ..CodeActionOptions::default()
        })),
        code_lens_provider: Some(CodeLensOptions { resolve_provider: Some(false) }),
        rename_provider: Some(OneOf::Right(RenameOptions {
            prepare_provider: Some(true),
            work_done_progress_options: Default::default(),
        })),
        document_formatting_provider: Some(OneOf::Left(true)),
        document_range_formatting_provider: Some(OneOf::Left(true)),
        document_on_type_formatting_provider: Some(DocumentOnTypeFormattingOptions {
            first_trigger_character: "}".to_owned(),
            more_trigger_character: Some(vec!["\n".to_owned()]),
        }),
        document_link_provider: Some(DocumentLinkOptions {
            resolve_provider: Some(false),
            work_done_progress_options: Default::default(),
        }),
        folding_range_provider: Some(FoldingRangeProviderCapability::Simple(true)),
        selection_range_provider: Some(SelectionRangeProviderCapability::Simple(true)),
        inlay_hint_provider: Some(OneOf::Left(true)),
        semantic_tokens_provider: Some(
            SemanticTokensOptions {
                legend: SemanticTokensLegend {
                    token_types: semantic_tokens::types(),
                    token_modifiers: semantic_tokens::modifiers(),
                },
                full: Some(SemanticTokensFullOptions::Bool(true)),
                ..SemanticTokensOptions::default()
            }
            .into(),
        ),
        workspace: Some(WorkspaceServerCapabilities {
            workspace_folders: Some(WorkspaceFoldersServerCapabilities {
                supported: Some(true),
                change_notifications: Some(OneOf::Left(true)),
            }),
            file_operations: None,
        }),
        ..ServerCapabilities::default()
    };
    let info = ServerInfo { name: "mopd".to_owned(), version: Some(env!("CARGO_PKG_VERSION").to_owned()) };
    InitializeResult { capabilities, server_info: Some(info) }
}

/// Asks the editor to report changes on disk: open files may import other ones.
pub fn watch_files(client: &EditorClient) -> Option<Request> {
    let options = json!({ "watchers": [{ "globPattern": "**/*.mopd" }] });
    let method = "workspace/didChangeWatchedFiles";
    let params =
        json!({ "registrations": [{ "id": "watch", "method": method, "registerOptions": options }] });
    client
        .watches_files
        .then(|| Request::new("watch".to_owned().into(), "client/registerCapability".to_owned(), params))
}
