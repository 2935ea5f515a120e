//! Running other programs from tests: a failure's text shows the command, its exit status and both outputs.

use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::thread;

/// Runs to the end with `input` on stdin and returns both outputs, whatever the exit status.
pub fn output_with(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    thread::scope(|scope| {
        // A program may end without reading all of its input; its exit status then says what went wrong.
        scope.spawn(move || stdin.write_all(input).ok());
        let errors = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).expect("stderr of a child is readable");
            bytes
        });
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).expect("stdout of a child is readable");
        let status = child.wait().expect("a child can be waited for");
        Output { status, stdout: bytes, stderr: errors.join().expect("the stderr reader does not panic") }
    })
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
