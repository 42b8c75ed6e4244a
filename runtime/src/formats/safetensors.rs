//! Safetensors: a JSON header with names, shapes and offsets, then the numbers. A model is one file, or
//! several with an index.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use mopd_store::regular;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tch::Kind;

use super::tensors::{BLOCKS, EXPONENTS, Tensor, Tensors, is_derived};
use super::{LARGEST_TEXT, unreadable};
use crate::failure::Result;
use crate::mapped::MappedFile;
use crate::mapped::NumberEncoding;

pub const MODEL: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";

/// Opens the tensors of one file.
pub fn open_file(path: &Path) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    add(path, &mut tensors)?;
    Ok(tensors)
}

/// Opens a folder's tensors: `model.safetensors`, or the files that `model.safetensors.index.json` names.
pub fn open(folder: &Path) -> Result<Tensors> {
    let (single, index) = (folder.join(MODEL), folder.join(INDEX));
    let mut tensors = Tensors::new();
    if single.exists() {
        add(&single, &mut tensors)?;
        return Ok(tensors);
    }
    if !index.exists() {
        return Err(absent(folder));
    }
    for (shard, names) in read_index(&index)? {
        let path = folder.join(&shard);
        if !path.exists() {
            return Err(unreadable(&index, format!("it names the file {shard}, which is missing")));
        }
        let file = add(&path, &mut tensors)?;
        for name in names {
            if tensors.get(&name).is_none_or(|tensor| !Arc::ptr_eq(&tensor.file, &file)) {
                return Err(unreadable(
                    &index,
                    format!("it says that the tensor {name} is in {shard}, but it is not"),
                ));
            }
        }
    }
    Ok(tensors)
}

/// File name to tensor names, from an index.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = regular::read(path, LARGEST_TEXT)
        .map_err(|error| unreadable(path, mopd_store::files::reason(&error)))?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| unreadable(path, error))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        if !is_file_name(&shard) {
            return Err(unreadable(path, format!("{shard:?} is not the name of a file in the same folder")));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    Ok(shards)
}

/// The files that an index names.
pub fn shards_of(index: &Path) -> Result<Vec<String>> {
    Ok(read_index(index)?.into_keys().collect())
}

/// The files that [`open`] reads a folder's tensors from.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (folder.join(MODEL), folder.join(INDEX));
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        return Err(absent(folder));
    }
    Ok(shards_of(&index)?.into_iter().map(|shard| folder.join(shard)).collect())
}

/// Whether a name is a plain file name, so that it can't lead out of its folder.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}

/// The error for a folder without weights, with a hint from the files that it does have.
fn absent(folder: &Path) -> crate::failure::Error {
    let present = |name: &str| folder.join(name).exists();
    let error = unreadable(folder, format!("there is no {MODEL} and no {INDEX} in it"));
    if present("pytorch_model.bin") || present("pytorch_model.bin.index.json") {
        return error.help(
            "its weights are in PyTorch's own format, which can run code when it is loaded: load it with \
            transformers and save it with `save_pretrained`, which writes safetensors",
        );
    }
    if present(super::peft::MODEL) {
        return error
            .help(format!("it holds an adapter without its settings: `{}` is missing", super::peft::CONFIG));
    }
    let gguf = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let gguf = gguf
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.ends_with(".gguf"));
    match gguf {
        Some(name) => error.help(format!("it has a GGUF file: `gguf(\"{}\")`", folder.join(name).display())),
        None => error.help(
            "a model is a folder with `config.json` and `model.safetensors`, as `save_pretrained` writes it",
        ),
    }
}

/// Adds the tensors of one file. It is an error if another file has a tensor of the same name.
fn add(path: &Path, tensors: &mut Tensors) -> Result<Arc<MappedFile>> {
    let file = MappedFile::open(path).map_err(|error| unreadable(path, error))?;
    check_size(file.bytes()).map_err(|problem| {
        unreadable(path, problem).help("the file is cut off: copy it or fetch it again")
    })?;
    // The library checks the header: its length, that the tensors are contiguous, and that each has the
    // length that its shape and type imply.
    let (header, metadata) =
        SafeTensors::read_metadata(file.bytes()).map_err(|error| unreadable(path, error))?;
    let start = size_of::<u64>() + header;
    for (name, info) in metadata.tensors() {
        let encoding = match info.dtype {
            Dtype::F32 => NumberEncoding::F32,
            Dtype::F16 => NumberEncoding::F16,
            Dtype::BF16 => NumberEncoding::Bf16,
            Dtype::U8 if [BLOCKS, EXPONENTS].iter().any(|end| name.ends_with(end)) => NumberEncoding::U8,
            // Buffers saved by old versions, never read: masks and tables that follow from the configuration.
            _ if is_derived(&name) => continue,
            other => {
                let problem =
                    format!("the tensor {name} is of type {other:?}; supported are F32, F16 and BF16");
                return Err(unreadable(path, problem).help("a quantised checkpoint is read from a GGUF file"));
            }
        };
        let (from, to) = info.data_offsets;
        let tensor = Tensor {
            file: file.clone(),
            range: start + from..start + to,
            encoding,
            shape: info.shape.clone(),
        };
        if let Some(other) = tensors.insert(name.clone(), tensor) {
            return Err(unreadable(
                path,
                format!("the tensor {name} is in {} too", other.file.path().display()),
            ));
        }
    }
    Ok(file)
}

/// Refuses a file that is shorter than its header says, before the library adds up the offsets, which it does
/// without checking their size.
fn check_size(bytes: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Offsets {
        data_offsets: Option<(u64, u64)>,
    }
    let shorter = |needed: u64, by: &str| {
        Err(format!("the file has {} bytes, its header says {needed}{by}", bytes.len()))
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return Ok(()) };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    if header.is_none() && length <= LARGEST_TEXT && rest.first() == Some(&b'{') {
        return shorter(length.saturating_add(8), " or more");
    }
    // A header that can't be parsed is left to the library, which reports what is wrong with it.
    let tensors: BTreeMap<String, Offsets> =
        header.and_then(|header| serde_json::from_slice(header).ok()).unwrap_or_default();
    let ends = tensors.values().filter_map(|offsets| Some(offsets.data_offsets?.1));
    let needed = ends.max().unwrap_or(0).saturating_add(8).saturating_add(length);
    if needed <= bytes.len() as u64 { Ok(()) } else { shorter(needed, "") }
}

/// Name and shape of a tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorHeader {
    pub name: String,
    pub shape: Vec<usize>,
}

impl TensorHeader {
    /// Bytes of the tensor in f32.
    fn bytes(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}

/// Divides tensors among files of at most `most` bytes each, unless a single tensor has more. Returns a range
/// of `headers` for each file.
pub fn shards(headers: &[TensorHeader], most: usize) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, header) in headers.iter().enumerate() {
        if index > first && bytes + header.bytes() > most {
            shards.push(first..index);
            (first, bytes) = (index, 0);
        }
        bytes += header.bytes();
    }
    shards.push(first..headers.len());
    shards
}

/// The file name of a shard, `index` from 0: `model-00001-of-00002.safetensors`, or `model.safetensors` if it
/// is the only one.
pub fn shard_name(index: usize, count: usize) -> String {
    if count == 1 { MODEL.to_owned() } else { format!("model-{:05}-of-{count:05}.safetensors", index + 1) }
}

/// The content of `model.safetensors.index.json` for several files.
pub fn index(headers: &[TensorHeader], shards: &[Range<usize>]) -> Value {
    let mut weight_map = Map::new();
    for (shard, range) in shards.iter().enumerate() {
        for header in &headers[range.clone()] {
            weight_map.insert(header.name.clone(), json!(shard_name(shard, shards.len())));
        }
    }
    let total: usize = headers.iter().map(TensorHeader::bytes).sum();
    json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
}

/// Writes one file in f32, tensor by tensor, so that a model need not be in memory twice. `numbers` passes
/// the numbers of a tensor to the function that it is given.
pub fn write(
    headers: &[TensorHeader],
    into: &mut dyn Write,
    mut numbers: impl FnMut(usize, &mut dyn FnMut(&[f32]) -> io::Result<()>) -> io::Result<()>,
) -> io::Result<()> {
    write_header(
        into,
        headers.iter().map(|header| (header.name.as_str(), "F32", header.shape.clone(), header.bytes())),
    )?;
    const { assert!(cfg!(target_endian = "little"), "the format's numbers are little-endian") };
    for (index, header) in headers.iter().enumerate() {
        let mut written = 0;
        numbers(index, &mut |values| {
            written += values.len();
            into.write_all(bytemuck::cast_slice(values))
        })?;
        assert_eq!(4 * written, header.bytes(), "the numbers of {}", header.name);
    }
    Ok(())
}

/// Writes the header. `tensors` has the name, type, shape and bytes of each.
fn write_header<'a>(
    into: &mut dyn Write,
    tensors: impl Iterator<Item = (&'a str, &'static str, Vec<usize>, usize)>,
) -> io::Result<()> {
    let mut json = Map::new();
    // Loaders check which framework wrote the tensors.
    json.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, dtype, shape, bytes) in tensors {
        let start = end;
        end += bytes;
        json.insert(name.to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    let mut text = serde_json::to_vec(&json)?;
    // The numbers start at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    into.write_all(&(text.len() as u64).to_le_bytes())?;
    into.write_all(&text)
}

/// The dtypes of tensors that can be written, with their names in the format.
const KINDS: [(Kind, &str, Dtype); 6] = [
    (Kind::Float, "F32", Dtype::F32),
    (Kind::BFloat16, "BF16", Dtype::BF16),
    (Kind::Half, "F16", Dtype::F16),
    (Kind::Double, "F64", Dtype::F64),
    (Kind::Int16, "I16", Dtype::I16),
    (Kind::Int64, "I64", Dtype::I64),
];

/// Numbers copied at a time.
const BLOCK: usize = 1 << 20;

/// Writes libtorch tensors, each in its own dtype, a block of numbers at a time.
pub fn write_tensors(tensors: &BTreeMap<String, tch::Tensor>, into: &mut dyn Write) -> io::Result<()> {
    let mut headers = Vec::new();
    for (name, tensor) in tensors {
        let found = KINDS.iter().find(|(kind, ..)| *kind == tensor.kind());
        let (kind, dtype, _) =
            found.ok_or_else(|| io::Error::other(format!("`{name}` is of type {:?}", tensor.kind())))?;
        let shape = tensor.size().iter().map(|size| *size as usize).collect();
        headers.push((name.as_str(), *dtype, shape, tensor.numel() * kind.elt_size_in_bytes()));
    }
    write_header(into, headers.into_iter())?;
    let mut buffer = Vec::new();
    for tensor in tensors.values() {
        let (flat, width) = (tensor.contiguous().view(-1), tensor.kind().elt_size_in_bytes());
        for start in (0..tensor.numel()).step_by(BLOCK) {
            let count = BLOCK.min(tensor.numel() - start);
            buffer.resize(count * width, 0);
            let part = flat.narrow(0, start as i64, count as i64);
            part.f_copy_data_u8(&mut buffer, count).map_err(io::Error::other)?;
            into.write_all(&buffer)?;
        }
    }
    Ok(())
}

/// Reads what [`write_tensors`] wrote, as CPU tensors.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, tch::Tensor>, String> {
    let file = MappedFile::open(path).map_err(|error| error.to_string())?;
    check_size(file.bytes())?;
    let found = SafeTensors::deserialize(file.bytes()).map_err(|error| error.to_string())?;
    let mut tensors = BTreeMap::new();
    for (name, view) in found.iter() {
        let kind = KINDS.iter().find(|(.., dtype)| *dtype == view.dtype());
        let (kind, ..) = kind.ok_or_else(|| format!("`{name}` is of type {:?}", view.dtype()))?;
        let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
        let tensor =
            tch::Tensor::f_from_data_size(view.data(), &shape, *kind).map_err(|error| error.to_string())?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
