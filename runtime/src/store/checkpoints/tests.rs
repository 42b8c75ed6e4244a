use tch::{Kind, Tensor};

use super::*;
use crate::report::Record;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn tensors() -> StateTensors {
    let mut tensors = StateTensors::default();
    tensors.put("single", &Tensor::from_slice(&[1.0f32, f32::NAN, f32::NEG_INFINITY, 1e-45]));
    tensors.put("half", &Tensor::from_slice(&[0.1f32, -3.0]).to_kind(Kind::BFloat16).view([2, 1]));
    tensors.put("low", &Tensor::from_slice(&[i16::MIN, 7]));
    tensors.put("strided", &Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([2, 3]).tr());
    tensors.put("empty", &Tensor::zeros([0], (Kind::Float, tch::Device::Cpu)));
    tensors
}

fn position(step: u32) -> TrainPosition {
    let text = format!(
        r#"{{"step": {step}, "seconds": 1.5, "updates": 3, "data": {{"drawn": 8, "sources": [[8, 0]]}},
        "carried": [[4, 9218868437227405312]], "rollouts": null}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn state_of(step: u32) -> TrainState {
    TrainState { position: position(step), tensors: tensors(), record: Record::default() }
}

fn keep(store: &Store, step: u32) {
    store.keep_state("key", "a stage", &state_of(step)).unwrap();
}

#[test]
fn a_state_comes_back_bit_for_bit() {
    let (_folder, store) = store();
    keep(&store, 3);
    let (Some(TrainState { position: found, tensors: back, .. }), damaged) = store.last_state("key") else {
        panic!("none")
    };
    assert_eq!((found, damaged.len()), (position(3), 0));
    let bytes = |tensor: &Tensor| {
        let mut bytes = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
        (tensor.size(), tensor.kind(), bytes)
    };
    for (name, tensor) in &tensors().0 {
        assert_eq!(bytes(&back.0[name]), bytes(tensor), "{name}");
    }
}

/// All fields, as earlier versions wrote them: those of the batches and of the losses are not nested.
#[test]
fn the_format_of_positions_stays() {
    let part = |drawn: u32| {
        serde_json::json!({
            "data": {"drawn": drawn, "sources": [[8, 0], [3, 1]], "owed": [4602678819172646912u64]},
            "carried": [[4, 9218868437227405312u64]],
            "climbed": [1, 0],
            "policy": [4607182418800017408u64, 1],
            "measured": [[[2, 18442240474082181120u64]], []],
            "kept": [[{"draw": {"source": 1, "record": 2}, "order": 4611686018427387904u64,
                "sequences": []}]],
            "pushed": [null, {"step": 2, "canary": [3212836864u32]}],
            "rollouts": {"sequences": [], "of_group": [2, 1], "draws": [], "dropped": [0, 3],
                "drawn": 4},
        })
    };
    let learner = |drawn: u32| {
        let mut position = part(drawn);
        let more = serde_json::json!({
            "step": 5, "turn": 1, "seconds": 0.1, "updates": 7, "extrapolated": 4,
            "own_data": [part(drawn + 1)],
            "losses": [4611686018427387904u64, 9218868437227405312u64],
            "states": {"pace": 4602678819172646912u64},
            "validated": [4, 4607182418800017408u64],
        });
        position.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        position
    };
    let mut written = learner(8);
    written.as_object_mut().unwrap().insert("others".to_owned(), serde_json::json!([learner(20)]));
    let read: TrainPosition = serde_json::from_str(&written.to_string()).unwrap();
    assert_eq!(read.first.batches.climbed, [1, 0]);
    assert_eq!(read.others[0].own_data[0].batches.policy.len(), 2);
    assert_eq!(read.others[0].hooks.validated, Some((4, 4607182418800017408)));
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
}

#[test]
fn the_last_two_are_kept_and_a_damaged_one_is_passed_over() {
    let (_folder, store) = store();
    assert!(store.last_state("key").0.is_none());
    for step in [2, 4, 11] {
        keep(&store, step);
    }
    assert_eq!(store.steps("key"), [11, 4]);
    let damage = |step, name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = store.path(&of_step("key", step)).join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    damage(11, TENSORS, &|bytes| bytes.truncate(bytes.len() / 2));
    let (Some(state), damaged) = store.last_state("key") else { panic!("the one before is whole") };
    assert_eq!((state.position.step, damaged.len()), (4, 1));
    assert!(damaged[0].reason.contains("0000000011") && damaged[0].reason.contains(TENSORS), "{damaged:?}");
    damage(4, POSITION, &|bytes| bytes[2] ^= 1);
    let (none, damaged) = store.last_state("key");
    assert!(none.is_none() && damaged.len() == 2, "{damaged:?}");
    // No checkpoints remain of a stage that has finished or starts again.
    store.drop_states("key").unwrap();
    assert!(!store.checkpoints("key").exists() && store.steps("key").is_empty());
}

/// Whatever happens while the next state is written, the state that training came from is there.
#[test]
fn a_damaged_state_never_outlives_an_intact_one() {
    let (_folder, store) = store();
    let damage = |step| fs::write(store.path(&of_step("key", step)).join(TENSORS), "short").unwrap();
    for step in [2, 4] {
        keep(&store, step);
    }
    damage(4);
    let (state, damaged) = store.resume_from("key").unwrap();
    assert_eq!((state.unwrap().position.step, damaged.len()), (2, 1));
    assert_eq!(store.steps("key"), [2], "it is of no use");
    // The next write is interrupted.
    fs::write(store.path(&of_step("key", 6)), "").unwrap();
    store.keep_state("key", "a stage", &state_of(6)).unwrap_err();
    assert_eq!(store.last_state("key").0.unwrap().position.step, 2);
    fs::remove_file(store.path(&of_step("key", 6))).unwrap();
    keep(&store, 6);
    assert_eq!(store.steps("key"), [6, 2]);
    // Where the last is damaged, the intact one before is what stays.
    damage(6);
    assert!(store.drop_older_states("key").unwrap());
    assert_eq!(store.steps("key"), [2]);
    assert!(!store.drop_older_states("key").unwrap());
    damage(2);
    assert!(store.resume_from("key").unwrap().0.is_none());
    assert_eq!(store.steps("key"), [2], "the reason may pass");
}

/// Training has begun again from its first step, since it could not restore the state that is there.
#[test]
fn a_state_that_training_did_not_come_from_goes_first() {
    let (_folder, store) = store();
    for step in [40, 50, 3] {
        keep(&store, step);
    }
    assert_eq!(store.steps("key"), [3]);
    keep(&store, 5);
    assert_eq!(store.steps("key"), [5, 3]);
    // The same step again.
    keep(&store, 5);
    assert_eq!((store.steps("key"), store.last_state("key").0.unwrap().position.step), (vec![5, 3], 5));
}

/// If the last state is incomplete, whichever file is cut off, the state before is used.
#[test]
fn a_state_that_was_cut_off_while_it_was_written_is_none() {
    let (_folder, store) = store();
    keep(&store, 2);
    keep(&store, 4);
    fs::remove_file(store.path(&of_step("key", 4)).join("checksums.json")).unwrap();
    assert_eq!(store.last_state("key").0.unwrap().position.step, 2);
    // The next state replaces the incomplete one.
    keep(&store, 4);
    assert_eq!(store.last_state("key").0.unwrap().position.step, 4);
}

#[test]
fn where_nothing_can_be_written_the_one_before_stays() {
    let (_folder, store) = store();
    keep(&store, 2);
    // Puts a file in place of the next folder, which also stops a user who may write anywhere.
    fs::write(store.path(&of_step("key", 4)), "").unwrap();
    let error = store.keep_state("key", "a stage", &state_of(4)).unwrap_err();
    assert!(
        error.to_string().contains("cannot write") && error.to_string().contains("0000000004"),
        "{error}"
    );
    assert_eq!(store.last_state("key").0.unwrap().position.step, 2);
}
