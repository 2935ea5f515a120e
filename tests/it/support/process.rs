//! Running other programs from tests: a failure's text shows the command, its exit status and both outputs.

use std::io::{Read, Write as _};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

/// Runs to the end with `input` on stdin and returns both outputs, whatever the exit status.
pub fn output_with(command: &mut Command, input: &[u8]) -> Output {
    piped(command, input, |child| child.wait().expect("a child can be waited for"))
}

/// As [`output_with`], where `end` waits for the child.
pub fn piped(command: &mut Command, input: &[u8], end: impl FnOnce(&mut Child) -> ExitStatus) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    thread::scope(|scope| {
        // A program may end without reading all of its input; its exit status then says what went wrong.
        scope.spawn(move || stdin.write_all(input).ok());
        let stdout = scope.spawn(move || read(stdout));
        let stderr = scope.spawn(move || read(stderr));
        let status = end(&mut child);
        let stdout = stdout.join().expect("the stdout reader does not panic");
        Output { status, stdout, stderr: stderr.join().expect("the stderr reader does not panic") }
    })
}

fn read(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("an output of a child is readable");
    bytes
}

/// As [`output_with`], and panics with the whole story unless the exit status is 0.
#[track_caller]
pub fn succeed_with(command: &mut Command, input: &[u8]) -> Output {
    let output = output_with(command, input);
    assert!(
        output.status.success(),
        "{command:?}\nended with {}\n--- stderr\n{}\n--- stdout (at most 4000 bytes)\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(output.stdout.get(..4000).unwrap_or(&output.stdout)),
    );
    output
}

/// As [`succeed_with`] without input; stdout as text.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    String::from_utf8(succeed_with(command, b"").stdout).expect("stdout is UTF-8")
}
