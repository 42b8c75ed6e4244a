//! TensorBoard's event files: TFRecord records, each an `Event` message of protocol buffers.
//!
//! Only what a scalar needs is written: `Event { 1: double wall_time, 2: int64 step, 3: string file_version,
//! 5: Summary }`, `Summary { 1: repeated Value }`, `Value { 1: string tag, 2: float simple_value }`.

/// A number of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarRecord {
    pub tag: String,
    pub value: f64,
}

/// The steps of a stage, in order.
#[derive(Debug, Default)]
pub struct Events {
    steps: Vec<EventStep>,
    /// The time of the last step.
    time: f64,
}

#[derive(Debug)]
struct EventStep {
    number: u64,
    /// The time when it ended, in seconds since 1970.
    time: f64,
    scalars: Vec<ScalarRecord>,
}

impl Events {
    /// Whether this step differs from the last one.
    pub fn begins(&self, step: u64) -> bool {
        self.steps.last().is_none_or(|last| last.number != step)
    }

    /// `time` is when the step ended. Where that was not recorded, time is counted from the beginning of the
    /// stage.
    pub fn step(&mut self, number: u64, time: Option<f64>, seconds: f64, scalars: Vec<ScalarRecord>) {
        self.time = time.unwrap_or(self.time + seconds);
        self.steps.push(EventStep { number, time: self.time, scalars });
    }

    /// Adds numbers to the last step.
    pub fn add(&mut self, scalars: Vec<ScalarRecord>) {
        if let Some(last) = self.steps.last_mut() {
            last.scalars.extend(scalars);
        }
    }

    /// The numbers of all steps.
    pub fn scalars(&self) -> impl Iterator<Item = &ScalarRecord> {
        self.steps.iter().flat_map(|step| &step.scalars)
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = beginning();
        file.extend(self.records());
        file
    }

    /// The records of these steps, to append to a file.
    pub fn records(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for step in &self.steps {
            let mut summary = Vec::new();
            for scalar in &step.scalars {
                let mut value = Vec::new();
                text(&mut value, 1, scalar.tag.as_bytes());
                float(&mut value, 2, scalar.value as f32);
                text(&mut summary, 1, &value);
            }
            let mut event = Vec::new();
            double(&mut event, 1, step.time);
            key(&mut event, 2, 0);
            varint(&mut event, step.number);
            text(&mut event, 5, &summary);
            record(&mut file, &event);
        }
        file
    }
}

/// The first record of every file.
pub fn beginning() -> Vec<u8> {
    let (mut file, mut first) = (Vec::new(), Vec::new());
    double(&mut first, 1, 0.0);
    text(&mut first, 3, b"brain.Event:2");
    record(&mut file, &first);
    file
}

/// The length of a file of ours before its first record of step `step` or later, or before an incomplete
/// record; `None` for a file that begins differently.
pub fn length_before(file: &[u8], step: u64) -> Option<usize> {
    let mut at = file.starts_with(&beginning()).then(|| beginning().len())?;
    loop {
        let Some(length) = file[at..].first_chunk().map(|length| u64::from_le_bytes(*length)) else {
            return Some(at);
        };
        // The key and eight bytes of the time, then the key and the value of the step.
        let end = usize::try_from(length).ok().and_then(|length| (at + 16).checked_add(length));
        let record = end.and_then(|end| file.get(at..end)).unwrap_or_default();
        match record.get(12 + 10..).and_then(read_varint) {
            Some(known) if known < step => at += record.len(),
            _ => return Some(at),
        }
    }
}

fn read_varint(bytes: &[u8]) -> Option<u64> {
    let length = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let parts = bytes[..=length].iter().rev();
    Some(parts.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

/// Length, checksum of the length, data, checksum of the data.
fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(crc32c(&length)).to_le_bytes());
    file.extend(data);
    file.extend(masked(crc32c(data)).to_le_bytes());
}

/// The masked checksum of TFRecord, so that a checksum of data with checksums in it is not special.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial, bit-reflected.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field's number and wire type: 0 a varint, 1 eight bytes, 2 a length and that many bytes, 5 four bytes.
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn float(out: &mut Vec<u8>, field: u64, value: f32) {
    key(out, field, 5);
    out.extend(value.to_le_bytes());
}

/// Text, or a message inside a message.
fn text(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn checksums_match_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_file_begins_with_its_version() {
        let bytes = Events::default().bytes();
        // The message has 24 bytes: key and eight of the time, then key, length and thirteen of the text.
        assert_eq!(bytes[..8], 24u64.to_le_bytes());
        assert_eq!(bytes.len(), 8 + 4 + 24 + 4);
        assert_eq!(bytes[12..21], [9, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[21..36], b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn steps_add_up_their_time_and_join_their_domains() {
        let mut events = Events::default();
        let scalar = |tag: &str, value| ScalarRecord { tag: tag.to_owned(), value };
        for number in [0, 300] {
            assert!(events.begins(number));
            events.step(number, None, 0.5, vec![scalar("loss", 1.5)]);
            events.add(vec![scalar("reward/sort", 0.25)]);
            assert!(!events.begins(number));
        }
        let bytes = events.bytes();
        let mut expected = vec![9];
        expected.extend(1.0f64.to_le_bytes());
        expected.extend([0x10, 0xac, 0x02, 0x2a, 33]);
        expected.extend(b"\x0a\x0b\x0a\x04loss\x15");
        expected.extend(1.5f32.to_le_bytes());
        expected.extend(b"\x0a\x12\x0a\x0breward/sort\x15");
        expected.extend(0.25f32.to_le_bytes());
        assert_eq!(&bytes[bytes.len() - 4 - expected.len()..bytes.len() - 4], expected);
    }

    #[test]
    fn a_file_is_gone_on_with_at_any_of_its_steps() {
        let scalar = |value| vec![ScalarRecord { tag: "loss".to_owned(), value }];
        let steps = |numbers: &[u64]| {
            let mut events = Events::default();
            numbers.iter().for_each(|number| events.step(*number, Some(1.7e9), 0.5, scalar(1.0)));
            events
        };
        let whole = steps(&[0, 1, 200, 300]).bytes();
        assert_eq!(whole, [beginning(), steps(&[0, 1]).records(), steps(&[200, 300]).records()].concat());
        for (step, before) in [(0, vec![]), (1, vec![0]), (2, vec![0, 1]), (300, vec![0, 1, 200])] {
            assert_eq!(length_before(&whole, step), Some(steps(&before).bytes().len()), "{step}");
        }
        assert_eq!(length_before(&whole, 301), Some(whole.len()));
        // A file that was cut off during a write, at any byte.
        let third = steps(&[0, 1, 200]).bytes().len();
        for length in third..whole.len() {
            assert_eq!(length_before(&whole[..length], 301), Some(third), "{length}");
        }
        assert_eq!(length_before(b"something else", 5), None);
        assert_eq!(length_before(b"", 5), None);
    }
}
