//! The GGUF container: typed metadata, a table of tensors, their bytes. Versions 2 and 3, little-endian.
//!
//! Lengths in the file are not trusted: nothing is allocated before the file is known to have as many
//! bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::mapped::NumberEncoding;
use crate::quote::quote;

#[derive(Clone, PartialEq)]
pub enum GgufValue {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    /// A list of texts or lists.
    List(Vec<GgufValue>),
    Numbers(GgufArray),
}

/// A list of numbers or flags as raw bytes: as `GgufValue`s it would take many times the memory.
#[derive(Clone, PartialEq)]
pub struct GgufArray {
    kind: u32,
    bytes: Vec<u8>,
}

impl GgufArray {
    pub fn len(&self) -> usize {
        self.bytes.len() / width(self.kind).unwrap_or(1)
    }

    pub fn get(&self, index: usize) -> Option<GgufValue> {
        let width = width(self.kind)?;
        scalar(self.kind, self.bytes.chunks_exact(width).nth(index)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = GgufValue> {
        let width = width(self.kind).unwrap_or(1);
        self.bytes.chunks_exact(width).filter_map(|bytes| scalar(self.kind, bytes))
    }
}

/// For messages, which don't spell out lists: they may be long.
impl fmt::Debug for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GgufValue::Unsigned(number) => write!(f, "{number}"),
            GgufValue::Signed(number) => write!(f, "{number}"),
            GgufValue::Float(number) => write!(f, "{number}"),
            GgufValue::Flag(flag) => write!(f, "{flag}"),
            GgufValue::Text(text) => f.write_str(&quote(text)),
            GgufValue::List(list) => write!(f, "a list of {}", list.len()),
            GgufValue::Numbers(numbers) => write!(f, "a list of {}", numbers.len()),
        }
    }
}

pub type Metadata = BTreeMap<String, GgufValue>;

/// Where a tensor is in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorExtent {
    pub encoding: NumberEncoding,
    /// Row-major, as everywhere here: the last dimension is contiguous. GGUF lists dimensions the other way
    /// round.
    pub shape: Vec<usize>,
    /// Range of bytes in the file.
    pub range: Range<usize>,
}

#[derive(Debug)]
pub struct GgufContents {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, TensorExtent>,
}

/// The deepest nesting of lists.
const DEEPEST: usize = 3;

/// Most values in a list; texts take several times their bytes in the file.
const LONGEST: u64 = 1 << 22;

struct ByteReader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.all.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            format!("it ends too early: {count} more bytes are expected at byte {}", self.at)
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N as u64)?.try_into().expect("as many bytes as were asked for"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let at = self.at;
        let bytes = self.take(length)?;
        // Tokens are bytes and need not be UTF-8.
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<GgufValue, String> {
        let at = self.at;
        let unknown = || format!("at byte {at} there is a value of type {kind}, which does not exist");
        match kind {
            8 => Ok(GgufValue::Text(self.text()?)),
            9 if depth < DEEPEST => {
                let (kind, length) = (self.u32()?, self.u64()?);
                if length > LONGEST {
                    return Err(format!("a list of {length} values is too long"));
                }
                if let Some(width) = width(kind) {
                    let bytes = self.take(length * width as u64)?.to_vec();
                    return Ok(GgufValue::Numbers(GgufArray { kind, bytes }));
                }
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(self.value(kind, depth + 1)?);
                }
                Ok(GgufValue::List(list))
            }
            9 => Err("lists are nested too deeply".to_owned()),
            _ => {
                let width = width(kind).ok_or_else(unknown)?;
                scalar(kind, self.take(width as u64)?).ok_or_else(unknown)
            }
        }
    }
}

/// Bytes of a number or a flag of a type.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn scalar(kind: u32, bytes: &[u8]) -> Option<GgufValue> {
    match kind {
        0 => Some(GgufValue::Unsigned(u8::from_le_bytes(bytes.try_into().ok()?).into())),
        1 => Some(GgufValue::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into())),
        2 => Some(GgufValue::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into())),
        3 => Some(GgufValue::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into())),
        4 => Some(GgufValue::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into())),
        5 => Some(GgufValue::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into())),
        6 => Some(GgufValue::Float(f32::from_le_bytes(bytes.try_into().ok()?).into())),
        7 => Some(GgufValue::Flag(*bytes.first()? != 0)),
        10 => Some(GgufValue::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?))),
        11 => Some(GgufValue::Signed(i64::from_le_bytes(bytes.try_into().ok()?))),
        12 => Some(GgufValue::Float(f64::from_le_bytes(bytes.try_into().ok()?))),
        _ => None,
    }
}

pub fn parse(all: &[u8]) -> Result<GgufContents, String> {
    let mut bytes = ByteReader { all, at: 0 };
    if bytes.take(4).ok() != Some(b"GGUF") {
        return Err("it is not a GGUF file: it does not start with these letters".to_owned());
    }
    match bytes.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err("it is big-endian, which is not supported".to_owned());
        }
        version => return Err(format!("GGUF version {version} is not supported, only 2 and 3 are")),
    }
    let (tensor_count, value_count) = (bytes.u64()?, bytes.u64()?);
    let mut metadata = Metadata::new();
    for _ in 0..value_count {
        let key = bytes.text()?;
        let kind = bytes.u32()?;
        let value = bytes.value(kind, 0).map_err(|problem| format!("`{key}`: {problem}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    let mut described = Vec::new();
    for _ in 0..tensor_count {
        described.push(describe(&mut bytes)?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(GgufValue::Unsigned(alignment)) if (1..=1 << 20).contains(alignment) => *alignment as usize,
        Some(other) => return Err(format!("`general.alignment` is {other:?}")),
    };
    let start = bytes.at.next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, encoding, shape, offset) in described {
        let problem = || {
            format!(
                "the tensor {name} is outside the file, or does not have the length of its shape \
                {shape:?}"
            )
        };
        let (columns, rows) = shape.split_last().ok_or_else(problem)?;
        let length = rows.iter().try_fold(encoding.bytes(*columns).ok_or_else(problem)?, |length, rows| {
            length.checked_mul(*rows)
        });
        let from =
            usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset)).ok_or_else(problem)?;
        let to = length
            .and_then(|length| from.checked_add(length))
            .filter(|to| *to <= all.len())
            .ok_or_else(problem)?;
        if tensors.insert(name.clone(), TensorExtent { encoding, shape, range: from..to }).is_some() {
            return Err(format!("the tensor {name} is given twice"));
        }
    }
    Ok(GgufContents { metadata, tensors })
}

type Description = (String, NumberEncoding, Vec<usize>, u64);

fn describe(bytes: &mut ByteReader) -> Result<Description, String> {
    let name = bytes.text()?;
    let dimensions = bytes.u32()?;
    if !(1..=4).contains(&dimensions) {
        return Err(format!("the tensor {name} has {dimensions} dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = bytes.u64()?;
        shape
            .push(usize::try_from(size).map_err(|_| format!("the tensor {name} has a dimension of {size}"))?);
    }
    shape.reverse();
    let kind = bytes.u32()?;
    let encoding = encoding(kind).ok_or_else(|| {
        format!(
            "the tensor {name} is of type {}; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, \
             Q4_K, Q5_K and Q6_K",
            type_name(kind)
        )
    })?;
    Ok((name, encoding, shape, bytes.u64()?))
}

fn encoding(kind: u32) -> Option<NumberEncoding> {
    Some(match kind {
        0 => NumberEncoding::F32,
        1 => NumberEncoding::F16,
        2 => NumberEncoding::Q4_0,
        3 => NumberEncoding::Q4_1,
        6 => NumberEncoding::Q5_0,
        7 => NumberEncoding::Q5_1,
        8 => NumberEncoding::Q8_0,
        12 => NumberEncoding::Q4K,
        13 => NumberEncoding::Q5K,
        14 => NumberEncoding::Q6K,
        30 => NumberEncoding::Bf16,
        _ => return None,
    })
}

/// The usual names of unsupported types.
fn type_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("number {other}"),
    };
    name.to_owned()
}
