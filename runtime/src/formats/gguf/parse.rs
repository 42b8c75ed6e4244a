//! The container: typed metadata, a table of tensors, their bytes. Versions 2 and 3, little-endian.
//!
//! Every length in the file is a claim: nothing is allocated before the bytes that it speaks of are seen to be there.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::formats::stored::Encoding;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    List(Vec<Value>),
}

pub type Metadata = BTreeMap<String, Value>;

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub encoding: Encoding,
    /// As everywhere here: the last dimension is the one whose numbers are neighbours. GGUF counts the other way.
    pub shape: Vec<usize>,
    /// Of the file's bytes.
    pub range: Range<usize>,
}

#[derive(Debug)]
pub struct Contents {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, Place>,
}

/// Lists in lists, at most so deep.
const DEEPEST: usize = 3;

/// A value takes more memory than its bytes in the file.
const LONGEST: u64 = 1 << 22;

struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.all.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("it ends too early: at byte {} there should be {count} more", self.at))?;
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
        // Tokens are bytes that need not be text; keys and names that are not will not be found.
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("at byte {at} there should be text in UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Flag(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth < DEEPEST => {
                let (kind, length) = (self.u32()?, self.u64()?);
                if length > LONGEST {
                    return Err(format!("a list of {length} values is longer than any in a model"));
                }
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::List(list)
            }
            9 => return Err("lists in lists, too deep".to_owned()),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("at byte {} there is a value of type {other}, which does not exist", self.at)),
        })
    }
}

pub fn parse(all: &[u8]) -> Result<Contents, String> {
    let mut bytes = Bytes { all, at: 0 };
    if bytes.take(4).ok() != Some(b"GGUF") {
        return Err("it is not a GGUF file: it does not start with these letters".to_owned());
    }
    match bytes.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => return Err("it is big-endian, which is not supported".to_owned()),
        version => return Err(format!("GGUF version {version} is not supported, only 2 and 3 are")),
    }
    let (tensor_count, value_count) = (bytes.u64()?, bytes.u64()?);
    let mut metadata = Metadata::new();
    for _ in 0..value_count {
        let key = bytes.text()?;
        let kind = bytes.u32()?;
        let value = bytes.value(kind, 0).map_err(|problem| format!("`{key}`: {problem}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("`{key}` stands twice"));
        }
    }
    let mut described = Vec::new();
    for _ in 0..tensor_count {
        described.push(describe(&mut bytes)?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(alignment)) if (1..=1 << 20).contains(alignment) => *alignment as usize,
        Some(other) => return Err(format!("`general.alignment` is {other:?}")),
    };
    let start = bytes.at.next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, encoding, shape, offset) in described {
        let problem = || format!("the tensor {name} lies outside the file, or is not as long as its shape {shape:?} asks for");
        let (columns, rows) = shape.split_last().ok_or_else(problem)?;
        let length =
            rows.iter().try_fold(encoding.bytes(*columns).ok_or_else(problem)?, |length, rows| length.checked_mul(*rows));
        let from = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset)).ok_or_else(problem)?;
        let to = length.and_then(|length| from.checked_add(length)).filter(|to| *to <= all.len()).ok_or_else(problem)?;
        if tensors.insert(name.clone(), Place { encoding, shape, range: from..to }).is_some() {
            return Err(format!("the tensor {name} stands twice"));
        }
    }
    Ok(Contents { metadata, tensors })
}

type Description = (String, Encoding, Vec<usize>, u64);

fn describe(bytes: &mut Bytes) -> Result<Description, String> {
    let name = bytes.text()?;
    let dimensions = bytes.u32()?;
    if !(1..=4).contains(&dimensions) {
        return Err(format!("the tensor {name} has {dimensions} dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = bytes.u64()?;
        shape.push(usize::try_from(size).map_err(|_| format!("the tensor {name} has a dimension of {size}"))?);
    }
    shape.reverse();
    let kind = bytes.u32()?;
    let encoding = encoding(kind).ok_or_else(|| {
        format!(
            "the tensor {name} is of type {}; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K",
            type_name(kind)
        )
    })?;
    Ok((name, encoding, shape, bytes.u64()?))
}

fn encoding(kind: u32) -> Option<Encoding> {
    Some(match kind {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        6 => Encoding::Q5_0,
        7 => Encoding::Q5_1,
        8 => Encoding::Q8_0,
        12 => Encoding::Q4K,
        13 => Encoding::Q5K,
        14 => Encoding::Q6K,
        30 => Encoding::Bf16,
        _ => return None,
    })
}

/// Of those that are not supported, as people name them.
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
