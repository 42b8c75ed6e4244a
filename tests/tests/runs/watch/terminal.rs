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

/// Starts a program on a pseudo-terminal, edits a file once it has been checked, and presses `v` when the
/// edit is shown.
const KEEP: &str = r#"
import fcntl, os, pty, select, struct, sys, termios, time

path, program = sys.argv[1], sys.argv[2:]
child, fd = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    os.environ["TERM"] = "xterm"
    os.execv(program[0], program)

def until(done, limit):
    end = time.time() + limit
    while not done():
        if time.time() > end:
            sys.exit("nothing came")
        if select.select([fd], [], [], 0.2)[0]:
            seen.append(os.read(fd, 65536))

def kept():
    return "student_2" in open(path).read()

seen = []
until(lambda: b"log" in b"".join(seen), 60)
until(lambda: not select.select([fd], [], [], 2.5)[0], 60)
text = open(path).read()
open(path, "w").write(text.replace("clip_at: 5", "clip_at: 3"))
seen = []
until(lambda: b"clip" in b"".join(seen), 60)
os.write(fd, b"v")
until(kept, 60)
os.kill(child, 9)
os.waitpid(child, 0)
"#;

#[test]
fn an_edit_is_kept_as_a_variant() {
    let desk = Desk::new();
    let output = Command::new("python3")
        .args(["-c", KEEP])
        .arg(desk.path("tiny.mopd"))
        .arg(std::path::absolute(mopd_tests::mopd()).expect("the program has a path"))
        .args(["watch", "--check"])
        .arg(desk.path("tiny.mopd"))
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = desk.read("tiny.mopd");
    for part in [
        "  objective = mopd(clip_at: 5)\n",
        "\n\nmodel student_2 = student with { objective = mopd(clip_at: 3) }\n",
        "models = [start, student, student_2]",
    ] {
        assert!(kept.contains(part), "{kept}");
    }
}
