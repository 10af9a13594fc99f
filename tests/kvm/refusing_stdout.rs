use crate::named::Harbour;

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
