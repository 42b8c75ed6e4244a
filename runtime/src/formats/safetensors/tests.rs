use std::fs;

use half::{bf16, f16};

use super::*;

/// Writes a file with these tensors, their numbers given as bytes.
fn file(path: &Path, tensors: &[(&str, &str, &[usize], &[u8])]) {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            (*name).to_owned(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    raw(path, &serde_json::to_string(&header).unwrap(), &data);
}

fn raw(path: &Path, header: &str, data: &[u8]) {
    let bytes: Vec<u8> =
        (header.len() as u64).to_le_bytes().iter().chain(header.as_bytes()).chain(data).copied().collect();
    fs::write(path, bytes).unwrap();
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn three_types_become_f32() {
    let folder = tempfile::tempdir().unwrap();
    let numbers = [1.0f32, -0.5, 65504.0, 2.0f32.powi(-14), 0.0, 3.140625];
    let half: Vec<u8> = numbers.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
    let brain: Vec<u8> =
        [1.0f32, -3.0e38, 1.0e-38].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
    file(
        &folder.path().join(MODEL),
        &[("a", "F32", &[2, 3], &bytes(&numbers)), ("b", "F16", &[2, 3], &half), ("c", "BF16", &[3], &brain)],
    );
    let tensors = open(folder.path()).unwrap();
    assert_eq!(tensors["a"].values(), numbers);
    assert_eq!(tensors["b"].values(), numbers);
    assert_eq!(
        tensors["c"].values(),
        [1.0, bf16::from_f32(-3.0e38).to_f32(), bf16::from_f32(1.0e-38).to_f32()]
    );
    assert_eq!((&tensors["a"].shape, &tensors["c"].shape), (&vec![2, 3], &vec![3]));
}

#[test]
fn written_safetensors_are_read_from_one_shard_or_several() {
    let headers: Vec<TensorHeader> = [("a", vec![3, 2]), ("b", vec![4]), ("c", vec![2, 2])]
        .map(|(name, shape)| TensorHeader { name: name.to_owned(), shape })
        .into();
    let all: [Vec<f32>; 3] =
        [(0..6).map(|i| i as f32).collect(), vec![0.5; 4], vec![-1.0, 2.0, f32::MIN_POSITIVE, 1e30]];
    for (most, expected) in [(usize::MAX, 1), (40, 2), (1, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let shards = shards(&headers, most);
        assert_eq!(shards.len(), expected);
        for (index, range) in shards.iter().enumerate() {
            let mut file = Vec::new();
            write(&headers[range.clone()], &mut file, |tensor, sink| sink(&all[range.start + tensor]))
                .unwrap();
            fs::write(folder.path().join(shard_name(index, shards.len())), &file).unwrap();
            // The numbers are aligned, so that they can be read without a copy.
            assert_eq!(u64::from_le_bytes(file[..8].try_into().unwrap()) % 8, 0);
        }
        if expected > 1 {
            fs::write(folder.path().join(INDEX), index(&headers, &shards).to_string()).unwrap();
        }
        let tensors = open(folder.path()).unwrap();
        assert_eq!(tensors.len(), 3);
        for (header, expected) in headers.iter().zip(&all) {
            assert_eq!(&tensors[&header.name].values(), expected);
            assert_eq!(tensors[&header.name].range.start % 4, 0);
        }
    }
}

#[test]
fn hostile_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL);
    let tensor = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let two =
        |second: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{second}}}"#);
    let huge = || {
        let most = (1u64 << 61) - 1;
        let tensor = |index: u64| {
            let (from, to) = (index * most, if index < 8 { (index + 1) * most } else { u64::MAX });
            format!(r#""t{index}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#, to - from)
        };
        format!("{{{}}}", (0..9).map(tensor).collect::<Vec<_>>().join(","))
    };
    for (header, data) in [
        (tensor("[2]", 0, 8), 4),
        (tensor("[2]", 0, 8), 12),
        (tensor("[3]", 0, 8), 8),
        (tensor("[2]", 8, 16), 8),
        (tensor("[2]", 8, 0), 8),
        (tensor("[4611686018427387904,4]", 0, 8), 8),
        (tensor("[-1]", 0, 8), 8),
        (tensor("[2]", 0, u64::MAX), 8),
        // Tensors that overlap, or leave a gap.
        (two(r#"{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#), 12),
        (two(r#"{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#), 16),
        // The sum of the lengths overflows: eight nearly as long as a u64 can say, and the rest.
        (huge(), 8),
        ("{".repeat(100_000), 0),
        ("null".to_owned(), 0),
    ] {
        raw(&path, &header, &vec![0; data]);
        assert!(open(folder.path()).is_err(), "{}", &header[..header.len().min(100)]);
    }
    for bytes in [&b""[..], b"1234567", &[255; 8], &[255; 64], &[2, 0, 0, 0, 0, 0, 0, 0, b'{']] {
        fs::write(&path, bytes).unwrap();
        assert!(open(folder.path()).is_err(), "{bytes:?}");
    }
    file(&path, &[("a", "F8_E4M3", &[2], &[0, 0])]);
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the tensor a is of type") && error.contains("F8"), "{error}");
}

#[test]
fn an_index_stays_in_its_folder_and_tells_the_truth() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir(&folder).unwrap();
    let two = bytes(&[1.0, 2.0]);
    file(&outer.path().join("secret.safetensors"), &[("a", "F32", &[2], &two)]);
    file(&folder.join("one.safetensors"), &[("a", "F32", &[2], &two)]);
    file(&folder.join("two.safetensors"), &[("a", "F32", &[2], &two)]);
    let index = |text: &str| {
        fs::write(folder.join(INDEX), text).unwrap();
        open(&folder).map(|tensors| tensors.len()).map_err(|error| error.to_string())
    };
    assert_eq!(index(r#"{"weight_map":{"a":"one.safetensors"}}"#), Ok(1));
    for name in
        ["../secret.safetensors", "/etc/passwd", "..", "", "./one.safetensors", "a/../one.safetensors"]
    {
        let error = index(&json!({ "weight_map": { "a": name } }).to_string()).unwrap_err();
        assert!(error.contains("is not the name of a file in the same folder"), "{name}: {error}");
    }
    for (text, expected) in [
        (r#"{"weight_map":{"a":"three.safetensors"}}"#, "three.safetensors, which is missing"),
        (r#"{"weight_map":{"b":"one.safetensors"}}"#, "the tensor b is in one.safetensors, but it is not"),
        (r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#, "the tensor a is in"),
        (r#"{"weight_map":3}"#, "invalid type"),
        ("", "EOF"),
    ] {
        let error = index(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_folder_without_safetensors_says_what_it_has_instead() {
    let help = |file: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file), "").unwrap();
        let crate::failure::Error::Failed(failure) = open(folder.path()).unwrap_err() else {
            panic!("interrupted")
        };
        failure.help.unwrap()
    };
    assert!(help("pytorch_model.bin").contains("save_pretrained"));
    assert!(help("adapter_model.safetensors").contains("adapter_config.json"));
    assert!(help("weights.gguf").contains("gguf("));
    assert!(help("README.md").contains("config.json"));
}

#[test]
fn a_file_that_is_cut_off_is_named_with_its_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL);
    file(&path, &[("a", "F32", &[2], &bytes(&[1.0, 2.0])), ("b", "F32", &[1], &bytes(&[3.0]))]);
    let whole = fs::read(&path).unwrap();
    for (kept, says) in [(whole.len() - 5, whole.len().to_string()), (20, " or more".to_owned())] {
        fs::write(&path, &whole[..kept]).unwrap();
        let crate::failure::Error::Failed(failure) = open(folder.path()).unwrap_err() else {
            panic!("interrupted")
        };
        let start = format!("cannot read {}: the file has {kept} bytes, its header says ", path.display());
        assert!(
            failure.message.starts_with(&start) && failure.message.ends_with(&says),
            "{}",
            failure.message
        );
        assert!(failure.help.unwrap().contains("cut off"));
    }
}
