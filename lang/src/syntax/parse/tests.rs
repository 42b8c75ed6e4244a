use super::parse;
use crate::source::FileId;

#[test]
fn an_empty_file_is_a_file() {
    let (module, findings) = parse(FileId(0), "");
    assert!(module.items.is_empty() && findings.is_empty());
}
