use crate::ends::power_off_at_once;
use crate::named::Harbour;
use crate::support::Coracle;
use crate::support::pipe::pipe;

guest!(
    greet_and_drift,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

#[test]
fn a_command_whose_answer_stdout_does_not_take_fails_and_says_why() {
    for (to, why) in [
        ("&-", "Bad file descriptor"),
        ("/dev/full", "No space left on device"),
    ] {
        let harbour = Harbour::new();
        let kernel = greet_and_drift().linux64();
        let script = format!("exec \"$@\" >{to}");
        let shell = ["sh", "-c", &script, "sh"];
        let start = |name| {
            let options = ["-d", "--name", name];
            let started = harbour.run(&kernel, &options).through(&shell).end();
            started
                .with_code(125)
                .saying(&["cannot print the guest's name", why]);
        };
        start("web");
        start("other");
        for words in [
            &["ps"][..],
            &["ps", "-q"],
            &["ps", "--json"],
            &["inspect", "web"],
            &["stats", "--no-stream"],
            &["logs", "web"],
            &["pause", "web"],
            &["unpause", "web"],
            // What is to be done is done, with all of them.
            &["stop", "-t", "0", "web", "other"],
            &["wait", "web"],
            &["rm", "web", "other"],
            &["--help"],
            &["ps", "--help"],
            &["--version"],
            &["doctor"],
            &["license"],
            &["man"],
            &["completions", "bash"],
        ] {
            let ended = harbour.coracle(words).through(&shell).end().with_code(125);
            ended.saying(&["coracle: cannot print ", why]);
        }
        assert_eq!(harbour.entries(), [""; 0]);
    }
}

/// Command lines that print something on stdout, without a guest.
fn printing_commands(kernel: &str) -> Vec<Vec<&str>> {
    let mut commands = vec![vec!["run", "--dry-run", "--kernel", kernel]];
    for command in [
        "man",
        "man run",
        "completions bash",
        "license",
        "license gpl-2.0",
        "doctor",
        "--help",
        "help run",
        "run --help",
        "--version",
    ] {
        commands.push(command.split(' ').collect());
    }
    commands
}

#[test]
fn a_reader_of_stdout_that_goes_away_is_141_and_silent_for_every_command() {
    let kernel = power_off_at_once().linux64();
    let kernel = kernel.path().to_str().unwrap();
    for command in printing_commands(kernel) {
        let (reader, stdout) = pipe();
        drop(reader);
        let ended = Coracle::new(&command).stdout(stdout).end();
        assert_eq!(ended.code, Some(141), "{command:?}: {}", ended.describe());
        assert_eq!(ended.stderr, "", "{command:?}");
    }
}

#[test]
fn a_full_stdout_is_125_and_named_for_every_command() {
    let kernel = power_off_at_once().linux64();
    let kernel = kernel.path().to_str().unwrap();
    for command in printing_commands(kernel) {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ended = Coracle::new(&command).stdout(full).end();
        assert_eq!(ended.code, Some(125), "{command:?}: {}", ended.describe());
        assert!(
            ended.stderr.contains("No space left"),
            "{command:?}: {}",
            ended.stderr
        );
    }
}
