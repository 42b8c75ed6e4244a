//! Tokenised data in a file: the number of lists, the end of each, then all tokens, four bytes each.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use mopd_store::Lookup;

use super::Store;
use super::hashed::write_hashed;
use crate::data::{Builder, Lists};
use crate::failure::Result;
use crate::tokenizer::Token;

const TOKENS: &str = "tokens.bin";

impl Store {
    pub fn tokens(&self, key: &str) -> Lookup<Lists<Token>> {
        self.folder
            .read(key, |folder| read(&folder.join(TOKENS)).map_err(|error| format!("{TOKENS}: {error}")))
    }

    /// Bytes that lists take in the store.
    pub fn bytes_of_tokens(lists: &Lists<Token>) -> u64 {
        8 + 8 * lists.len() as u64 + 4 * lists.lengths().sum::<usize>() as u64
    }

    /// Stores lists of tokens; `about` describes them.
    pub fn insert_tokens(&self, key: &str, about: &str, lists: &Lists<Token>) -> Result<()> {
        self.folder.write(key, about, |folder| {
            let sum = write_hashed(&folder.join(TOKENS), |file| write(lists, file))?;
            Ok([(TOKENS.to_owned(), sum)].into())
        })
    }
}

fn write(lists: &Lists<Token>, file: &mut dyn Write) -> io::Result<()> {
    file.write_all(&(lists.len() as u64).to_le_bytes())?;
    let mut end = 0u64;
    for length in lists.lengths() {
        end += length as u64;
        file.write_all(&end.to_le_bytes())?;
    }
    let mut bytes = Vec::new();
    for list in 0..lists.len() {
        bytes.clear();
        for token in lists.get(list) {
            let token =
                i32::try_from(*token).map_err(|_| io::Error::other(format!("{token} is no token")))?;
            bytes.extend(token.to_le_bytes());
        }
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Lists<Token>> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut word = [0; 8];
    let mut next = |file: &mut BufReader<_>| {
        file.read_exact(&mut word)?;
        Ok::<u64, io::Error>(u64::from_le_bytes(word))
    };
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let count = next(&mut file)?;
    // The count is checked before memory is allocated for it.
    if count > size / 8 {
        return Err(short());
    }
    let ends = (0..count).map(|_| next(&mut file)).collect::<io::Result<Vec<u64>>>()?;
    let (mut lists, mut start, mut bytes, mut tokens) = (Builder::default(), 0, Vec::new(), Vec::new());
    for end in ends {
        let length = end.checked_sub(start).filter(|length| *length <= size / 4).ok_or_else(short)?;
        start = end;
        bytes.resize(4 * length as usize, 0);
        file.read_exact(&mut bytes)?;
        tokens.clear();
        tokens.extend(bytes.as_chunks().0.iter().map(|bytes| Token::from(i32::from_le_bytes(*bytes))));
        lists.push(&tokens)?;
    }
    lists.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> Lists<Token> {
        let mut builder = Builder::default();
        for length in [3i64, 0, 5] {
            builder
                .push(
                    &(0..length)
                        .map(|token| if token % 2 == 0 { token * 70_000 } else { !token })
                        .collect::<Vec<_>>(),
                )
                .unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn tokens_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(matches!(store.tokens("key"), Lookup::Absent));
        store.insert_tokens("key", "some", &lists()).unwrap();
        let Lookup::Found(found) = store.tokens("key") else { panic!("not found") };
        assert_eq!(found.len(), 3);
        assert!((0..3).all(|list| found.get(list) == lists().get(list)));
        let path = folder.path().join("key").join(TOKENS);
        let good = std::fs::read(&path).unwrap();
        assert_eq!((good.len() as u64, good.len()), (Store::bytes_of_tokens(&lists()), 8 + 3 * 8 + 8 * 4));
        for place in [0, 9, good.len() - 1] {
            let mut bad = good.clone();
            bad[place] ^= 64;
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(store.tokens("key"), Lookup::Damaged(_)), "byte {place}");
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_read_to_its_end_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut good = Vec::new();
        write(&lists(), &mut good).unwrap();
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path).is_err(), "{length} bytes");
        }
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        assert!(read(&path).is_err());
        let mut builder = Builder::default();
        builder.push(&[1 << 40]).unwrap();
        assert!(
            write(&builder.finish().unwrap(), &mut Vec::new()).is_err(),
            "what is no token is not cut off"
        );
    }
}
