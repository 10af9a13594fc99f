//! Ends the process in an orderly way after a panic, which is a bug in Coracle: restores the terminal, prints a line to stderr,
//! and exits with a code of its own.

use std::panic::{self, PanicHookInfo};
use std::process;
use std::thread;

use super::stderr::tell_at_once;
use super::terminal;

/// Makes every later panic, on any thread, end the process with this exit code.
pub fn end_on_panic(exit_code: u8) {
    panic::set_hook(Box::new(move |info| {
        terminal::restore();
        tell_at_once(&words(info));
        process::exit(exit_code.into());
    }));
}

fn words(info: &PanicHookInfo) -> String {
    let thread = thread::current();
    let place = info
        .location()
        .map_or_else(String::new, |place| format!(" at {place}"));
    format!(
        "coracle: a bug in Coracle{place}, thread {}: {}\n  try: report this line, with the command line\n",
        thread.name().unwrap_or("without a name"),
        info.payload_as_str().unwrap_or("it has no words"),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "CORACLE_TEST_PANIC";

    /// This test starts its own program again as the process that panics.
    #[test]
    fn a_panic_on_any_thread_is_101_and_says_where_it_was() {
        if std::env::var_os(CHILD).is_some() {
            end_on_panic(101);
            let thread = thread::Builder::new().name("adrift".into());
            let _ = thread.spawn(|| panic!("no oars")).map(|thread| thread.join());
            process::exit(0);
        }
        let test = "console::panic::tests::a_panic_on_any_thread_is_101_and_says_where_it_was";
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", test])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(101), "{said}");
        for words in ["a bug in Coracle at src/console/panic.rs", "adrift", "no oars"] {
            assert!(said.contains(words), "{said}");
        }
    }
}
