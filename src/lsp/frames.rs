//! Frames of the protocol: a header with the length of a message, then the message. Lengths are limited.

use std::io::{self, BufRead, Read, Write};

use lsp_server::Message;

/// Longer messages are refused before memory is allocated for them: the longest that editors send is the text
/// of a file.
const LONGEST: u64 = 64 << 20;

/// The longest line of a header.
const LONGEST_LINE: u64 = 4_096;

/// The next message; `None` at the end of the input.
pub fn read(input: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if input.take(LONGEST_LINE).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some(line) = line.strip_suffix("\r\n") else {
            return Err(invalid(format!("`{}` is not a header line", shortened(&line))));
        };
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(": ") else {
            return Err(invalid(format!("`{}` is not a header line", shortened(line))));
        };
        if name.eq_ignore_ascii_case("Content-Length") {
            let known: u64 =
                value.parse().map_err(|_| invalid(format!("`{}` is not a length", shortened(value))))?;
            length = Some(known);
        }
    }
    let length = length.ok_or_else(|| invalid("a header without Content-Length".to_owned()))?;
    if length > LONGEST {
        return Err(invalid(format!("a message of {length} bytes; the longest that is taken has {LONGEST}")));
    }
    let mut body = Vec::new();
    if input.take(length).read_to_end(&mut body)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&body).map(Some).map_err(|error| invalid(format!("no JSON-RPC message: {error}")))
}

/// Sends a message.
pub fn write(output: &mut impl Write, message: &Message) -> io::Result<()> {
    message.write(output)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(bytes: &[u8]) -> String {
        read(&mut io::BufReader::new(bytes)).expect_err("refused").to_string()
    }

    #[test]
    fn a_length_is_believed_up_to_a_limit() {
        for length in ["67108865", "8000000000", "1000000000000", "18446744073709551615"] {
            let said = error_of(format!("Content-Length: {length}\r\n\r\n{{}}").as_bytes());
            assert!(said.contains(length) && said.contains("67108864"), "{said}");
        }
        assert!(error_of(b"Content-Length: 99999999999999999999999\r\n\r\n").contains("is not a length"));
        assert!(error_of(b"Content-Length: -1\r\n\r\n").contains("is not a length"));
        // An announced length without content takes no memory either.
        assert!(error_of(b"Content-Length: 60000000\r\n\r\n{}").contains("unexpected end"));
    }

    #[test]
    fn a_header_that_never_ends_is_refused() {
        assert!(error_of(&vec![b'x'; 1 << 20]).contains("is not a header line"));
    }

    #[test]
    fn written_message_is_read_back() {
        let sent = Message::from(lsp_server::Notification::new("exit".to_owned(), serde_json::Value::Null));
        let mut bytes = Vec::new();
        write(&mut bytes, &sent).expect("a vector takes everything");
        let got = read(&mut bytes.as_slice()).expect("whole").expect("a message");
        assert!(matches!(got, Message::Notification(note) if note.method == "exit"));
        assert!(read(&mut io::empty()).expect("the end").is_none());
    }
}
