//! Many short lists, stored end to end: a few bytes of overhead per list instead of an allocation, and in a
//! file when they grow large.

use std::fs::File;
use std::io::{self, Write};

use bytemuck::Pod;
use mopd_kernels::os::Mapping;

/// Lists of numbers, by index.
#[derive(Debug)]
pub struct Lists<T> {
    items: Items<T>,
    /// End of each list, as an index into `items`.
    ends: Vec<u64>,
}

#[derive(Debug)]
enum Items<T> {
    Memory(Vec<T>),
    /// An unnamed file, which no other program can change. The system caches what fits in memory.
    File(Mapping),
}

/// Bytes that are kept in memory before they go to a file.
const MEMORY: usize = 256 << 20;
/// Bytes that are buffered before they are written.
const BUFFER: usize = 4 << 20;

/// Builds [`Lists`] from lists that are pushed one after the other.
pub struct Builder<T> {
    items: Vec<T>,
    ends: Vec<u64>,
    file: Option<File>,
    /// Number of items in the file.
    written: u64,
    memory: usize,
}

impl<T: Pod> Default for Builder<T> {
    fn default() -> Builder<T> {
        Builder::with_memory(MEMORY)
    }
}

impl<T: Pod> Builder<T> {
    fn with_memory(memory: usize) -> Builder<T> {
        Builder { items: Vec::new(), ends: Vec::new(), file: None, written: 0, memory }
    }

    pub fn push(&mut self, list: &[T]) -> io::Result<()> {
        self.items.extend_from_slice(list);
        self.ends.push(self.written + self.items.len() as u64);
        let bytes = size_of_val(self.items.as_slice());
        if bytes > if self.file.is_some() { BUFFER } else { self.memory } { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.write_all(bytemuck::cast_slice(&self.items))?;
        self.written += self.items.len() as u64;
        self.items.clear();
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<Lists<T>> {
        self.ends.shrink_to_fit();
        if self.file.is_none() {
            self.items.shrink_to_fit();
            return Ok(Lists { items: Items::Memory(self.items), ends: self.ends });
        }
        self.write()?;
        let file = self.file.take().expect("the last write left a file");
        let mapped = Mapping::new(&file)?;
        Ok(Lists { items: Items::File(mapped), ends: self.ends })
    }
}

impl<T: Pod> Lists<T> {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// # Panics
    ///
    /// If there is no such list.
    pub fn get(&self, index: usize) -> &[T] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.items()[start as usize..self.ends[index] as usize]
    }

    /// Lengths of all lists, in order.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> {
        (0..self.len())
            .map(|index| (self.ends[index] - if index == 0 { 0 } else { self.ends[index - 1] }) as usize)
    }

    fn items(&self) -> &[T] {
        match &self.items {
            Items::Memory(items) => items,
            // A mapping starts at a page, so it is aligned for any item.
            Items::File(mapped) => bytemuck::cast_slice(mapped),
        }
    }
}

impl Lists<u8> {
    /// A list that was pushed as text.
    pub fn text(&self, index: usize) -> &str {
        std::str::from_utf8(self.get(index)).expect("texts were pushed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_from_memory_and_from_a_file() {
        for memory in [usize::MAX, 40] {
            let mut builder = Builder::with_memory(memory);
            let lists: Vec<Vec<i64>> =
                (0..200).map(|length| (0..length % 7).map(|item| item - 3).collect()).collect();
            for list in &lists {
                builder.push(list).unwrap();
            }
            let kept = builder.finish().unwrap();
            assert_eq!(matches!(kept.items, Items::File(_)), memory == 40);
            assert_eq!(kept.len(), 200);
            assert!(kept.lengths().eq(lists.iter().map(Vec::len)));
            assert!(lists.iter().enumerate().all(|(index, list)| kept.get(index) == list));
        }
        let mut texts = Builder::with_memory(3);
        for text in ["", "é", "日本", ""] {
            texts.push(text.as_bytes()).unwrap();
        }
        let texts = texts.finish().unwrap();
        assert_eq!([texts.text(0), texts.text(1), texts.text(2), texts.text(3)], ["", "é", "日本", ""]);
        assert_eq!(Builder::<u8>::with_memory(0).finish().unwrap().len(), 0);
    }
}
