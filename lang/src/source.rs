//! Source files and positions in them. Code uses byte offsets internally; lines and columns are for
//! people.

/// The most bytes of a source file. The longest experiments that people write have some ten thousand.
pub const MOST_BYTES: usize = 256 << 10;

/// What to do about a source file that is longer.
pub const TOO_LONG_HELP: &str = "a source file has at most 256 KiB of text: move data into files of data, \
                                 and declarations into modules, which `use` imports";

/// A source file of this analysis: an index into [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A half-open range of bytes in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(file: FileId, start: usize, end: usize) -> Span {
        Span { file, start: start as u32, end: end as u32 }
    }

    /// Whether it lies inside of another one.
    pub fn is_within(self, other: Span) -> bool {
        self.file == other.file && other.start <= self.start && self.end <= other.end
    }

    /// The smallest span that contains both; they must be in one file.
    pub fn to(self, other: Span) -> Span {
        Span { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A value, and the text that it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Spanned<T> {
        Spanned { value, span }
    }

    pub fn as_ref(&self) -> Spanned<&T> {
        Spanned::new(&self.value, self.span)
    }
}

/// A file from the host. `path` is what people see: a path on disk, or `std:opd.mopd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

impl SourceFile {
    /// Another text in place of the file's.
    pub fn with_text(&self, text: &str) -> SourceFile {
        SourceFile { path: self.path.clone(), text: text.to_owned() }
    }
}

/// All files of one analysis.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
    /// Those that are no programs: the texts of templates.
    texts: Vec<FileId>,
}

impl Sources {
    pub fn add(&mut self, file: SourceFile) -> FileId {
        self.files.push(file);
        FileId(self.files.len() as u32 - 1)
    }

    /// Adds the text of a template.
    pub fn add_text(&mut self, file: SourceFile) -> FileId {
        let id = self.add(file);
        self.texts.push(id);
        id
    }

    /// The files that are programs.
    pub fn programs(&self) -> impl Iterator<Item = (FileId, &SourceFile)> {
        self.files().filter(|(id, _)| !self.texts.contains(id))
    }

    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    pub fn files(&self) -> impl Iterator<Item = (FileId, &SourceFile)> {
        self.files.iter().enumerate().map(|(index, file)| (FileId(index as u32), file))
    }

    pub fn text(&self, span: Span) -> &str {
        &self.file(span.file).text[span.start as usize..span.end as usize]
    }

    /// Line and UTF-16 column of an offset, both from zero, as editors count.
    pub fn position(&self, file: FileId, offset: u32) -> (usize, usize) {
        let before = &self.file(file).text[..offset as usize];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count(), before[line_start..].encode_utf16().count())
    }
}
