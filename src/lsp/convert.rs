//! Conversion between byte offsets and positions in the protocol.

use lsp_types::{Position, Range};
use mopd_lang::source::{FileId, Sources, Span};

/// The unit of the editor's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionEncoding {
    Utf8,
    Utf16,
}

/// A text with the offsets of its lines. A line ends with `\n`, `\r\n` or `\r`.
pub struct LineIndex<'a> {
    text: &'a str,
    encoding: PositionEncoding,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    pub fn new(text: &'a str, encoding: PositionEncoding) -> LineIndex<'a> {
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        if text.contains('\r') {
            let ends = |at: &usize| {
                bytes[*at] == b'\n' || (bytes[*at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'))
            };
            starts.extend((0..bytes.len()).filter(ends).map(|at| at + 1));
        } else {
            // Several times faster, and every keystroke in a long file waits for it.
            starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        }
        LineIndex { text, encoding, starts }
    }

    pub fn from_file(sources: &'a Sources, file: FileId, encoding: PositionEncoding) -> LineIndex<'a> {
        LineIndex::new(&sources.file(file).text, encoding)
    }

    /// The position of an offset; an offset inside a character counts as the one before it.
    pub fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset) - 1;
        let before = &self.text[self.starts[line]..offset];
        let column = match self.encoding {
            PositionEncoding::Utf8 => before.len(),
            PositionEncoding::Utf16 => before.encode_utf16().count(),
        };
        Position::new(line as u32, column as u32)
    }

    /// The offset of a position. A position beyond the end of a line or of the text counts as that end, as in
    /// the protocol.
    pub fn offset(&self, position: Position) -> usize {
        let Some(&start) = self.starts.get(position.line as usize) else { return self.text.len() };
        let end = self.starts.get(position.line as usize + 1).copied().unwrap_or(self.text.len());
        let line = self.text[start..end].trim_end_matches(['\n', '\r']);
        let column = position.character as usize;
        match self.encoding {
            PositionEncoding::Utf8 => start + line.floor_char_boundary(column.min(line.len())),
            PositionEncoding::Utf16 => {
                let mut units = 0;
                for (at, character) in line.char_indices() {
                    units += character.len_utf16();
                    if units > column {
                        return start + at;
                    }
                }
                start + line.len()
            }
        }
    }

    pub fn range(&self, start: usize, end: usize) -> Range {
        Range::new(self.position(start), self.position(end))
    }

    pub fn range_of(&self, span: Span) -> Range {
        self.range(span.start as usize, span.end as usize)
    }

    /// The width of a piece of one line, in columns.
    pub fn width(&self, start: usize, end: usize) -> u32 {
        let text = &self.text[start..end];
        match self.encoding {
            PositionEncoding::Utf8 => text.len() as u32,
            PositionEncoding::Utf16 => text.encode_utf16().count() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a𝒜é\r\nb\rc\n";

    #[test]
    fn every_offset_comes_back() {
        for encoding in [PositionEncoding::Utf8, PositionEncoding::Utf16] {
            let lines = LineIndex::new(TEXT, encoding);
            for (offset, character) in TEXT.char_indices() {
                // No position is between the `\r` and the `\n` of a line end.
                if character != '\n' {
                    assert_eq!(lines.offset(lines.position(offset)), offset, "{encoding:?}");
                }
            }
            assert_eq!(lines.position(TEXT.len()), Position::new(3, 0));
        }
    }

    #[test]
    fn columns_are_counted_as_agreed() {
        let at = TEXT.find('\u{e9}').expect("it is there");
        assert_eq!(LineIndex::new(TEXT, PositionEncoding::Utf16).position(at), Position::new(0, 3));
        assert_eq!(LineIndex::new(TEXT, PositionEncoding::Utf8).position(at), Position::new(0, 5));
        // In the middle of a surrogate pair.
        assert_eq!(LineIndex::new(TEXT, PositionEncoding::Utf16).offset(Position::new(0, 2)), 1);
    }

    #[test]
    fn places_that_are_not_there_are_the_nearest_end() {
        let lines = LineIndex::new(TEXT, PositionEncoding::Utf16);
        assert_eq!(lines.offset(Position::new(0, 99)), TEXT.find('\r').expect("it is there"));
        assert_eq!(lines.offset(Position::new(99, 0)), TEXT.len());
        assert_eq!(lines.offset(Position::new(u32::MAX, u32::MAX)), TEXT.len());
    }
}
