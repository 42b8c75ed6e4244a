//! The terminal view, on a pseudo-terminal.

use std::process::Command;

use super::editing::Desk;

/// Starts a program on a pseudo-terminal, waits until it draws nothing more, gives the terminal another size,
/// and prints what is drawn then.
const RESIZE: &str = r#"
import fcntl, os, pty, select, struct, sys, termios, time

def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

def drawn(fd, quiet, limit):
    text, end = b"", time.time() + limit
    while time.time() < end and select.select([fd], [], [], quiet)[0]:
        text += os.read(fd, 65536)
    return text

child, fd = pty.fork()
if child == 0:
    resize(0, 30, 100)
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], sys.argv[1:])
text = b""
while b"diagnostics" not in text and b"nothing to rerun" not in text and b"log" not in text:
    text += os.read(fd, 65536)
# The file is looked at every second; nothing is drawn for it.
drawn(fd, 2.5, 30)
resize(fd, 40, 140)
sys.stdout.buffer.write(drawn(fd, 3, 10))
os.kill(child, 9)
os.waitpid(child, 0)
"#;

#[test]
fn another_size_is_drawn_at_once() {
    let desk = Desk::new();
    let output = Command::new("python3")
        .args(["-c", RESIZE])
        .arg(std::path::absolute(mopd_tests::mopd()).expect("the program has a path"))
        .args(["watch", "--check"])
        .arg(desk.path("tiny.mopd"))
        .output()
        .expect("python3 runs");
    let drawn = String::from_utf8_lossy(&output.stdout);
    assert!(drawn.contains("stages"), "{drawn:?} {}", String::from_utf8_lossy(&output.stderr));
}
