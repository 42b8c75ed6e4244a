//! Scores of frozen models: a folder for each model and stage's data, with an entry per batch. An entry has
//! the last hidden states, in the stage's compute dtype, one token after the other.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mopd_store::{Lookup, write_whole};

use super::Store;
use crate::failure::Result;

const HIDDEN: &str = "hidden.bin";

/// The name and size of an entry.
#[derive(Clone, Copy, Debug)]
pub struct ScoreEntry<'a> {
    /// Key of the folder.
    pub key: &'a str,
    /// A hash of the scored batch.
    pub batch: &'a str,
    /// Size of the whole entry in bytes.
    pub bytes: u64,
}

impl ScoreEntry<'_> {
    /// The entry's name in the store.
    pub fn name(&self) -> String {
        format!("{}/{}", folder(self.key), self.batch)
    }
}

fn folder(key: &str) -> String {
    format!("{key}.scores")
}

impl Store {
    /// Reads some ranges of bytes, concatenated. The checksums of a `trusted` entry are not verified
    /// again.
    pub fn scores(&self, place: ScoreEntry, ranges: &[Range<u64>], trusted: bool) -> Lookup<Vec<u8>> {
        let name = place.name();
        let read = |folder: &Path| {
            read(&folder.join(HIDDEN), place.bytes, ranges).map_err(|error| format!("{HIDDEN}: {error}"))
        };
        // An entry that was deleted or truncated since then is read as if it were not trusted.
        match trusted.then(|| read(&self.path(&name))) {
            Some(Ok(found)) => Lookup::Found(found),
            _ => self.folder.read(&name, read),
        }
    }

    /// Stores an entry; `about` describes it.
    pub fn insert_scores(&self, place: ScoreEntry, about: &str, bytes: &[u8]) -> Result<()> {
        self.folder.write(&place.name(), about, |folder| {
            let sum = write_whole(&folder.join(HIDDEN), bytes)?;
            Ok([(HIDDEN.to_owned(), sum)].into())
        })
    }

    /// Deletes all entries under a key. Returns false if there are none.
    pub fn drop_scores(&self, key: &str) -> Result<bool> {
        let there = self.path(&folder(key)).exists();
        self.folder.remove(&folder(key))?;
        Ok(there)
    }
}

fn read(path: &Path, bytes: u64, ranges: &[Range<u64>]) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length != bytes {
        return Err(io::Error::other(format!("{length} bytes, where {bytes} are expected")));
    }
    let mut found = vec![0; ranges.iter().map(|range| range.end - range.start).sum::<u64>() as usize];
    let mut rest = found.as_mut_slice();
    for range in ranges {
        let (part, behind) = rest.split_at_mut((range.end - range.start) as usize);
        file.read_exact_at(part, range.start)?;
        rest = behind;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use mopd_store::Damage;

    use super::*;

    fn one(range: Range<u64>) -> [Range<u64>; 1] {
        [range]
    }

    #[test]
    fn ranges_come_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let place = ScoreEntry { key: "key", batch: "batch", bytes: 100 };
        let whole: Vec<u8> = (0..100).collect();
        assert!(matches!(store.scores(place, &one(0..100), false), Lookup::Absent));
        assert!(
            matches!(store.scores(place, &one(0..100), true), Lookup::Absent),
            "gone since it was looked at"
        );
        store.insert_scores(place, "some", &whole).unwrap();
        for trusted in [false, true] {
            let Lookup::Found(found) = store.scores(place, &[4..8, 90..100, 0..1], trusted) else {
                panic!("not found")
            };
            assert_eq!(found, [&whole[4..8], &whole[90..100], &whole[0..1]].concat());
        }
        let longer = ScoreEntry { bytes: 104, ..place };
        let found = store.scores(longer, &one(100..104), true);
        assert!(matches!(found, Lookup::Damaged(damage) if damage.reason.contains("104")));
        let path = folder.path().join(place.name()).join(HIDDEN);
        let mut bad = whole.clone();
        bad[50] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let Lookup::Damaged(Damage { reason, .. }) = store.scores(place, &one(0..4), false) else {
            panic!("a range beside the damage")
        };
        assert!(reason.contains("checksum of hidden.bin is wrong"), "{reason}");
        std::fs::write(&path, &whole[..99]).unwrap();
        for trusted in [false, true] {
            assert!(matches!(store.scores(place, &one(0..4), trusted), Lookup::Damaged(_)));
        }
        assert!(store.drop_scores("key").unwrap());
        assert!(
            matches!(store.scores(place, &one(0..4), false), Lookup::Absent)
                && !store.drop_scores("key").unwrap()
        );
    }
}
