//! Any end, after anything that a guest may print.

use super::*;

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(()).prop_map(|()| Outcome::PoweredOff),
        Just(()).prop_map(|()| Outcome::Reset),
        any::<Option<u64>>().prop_map(|instruction_pointer| Outcome::TripleFault { instruction_pointer }),
        (any::<u32>(), any::<Option<u64>>(), any::<Vec<u8>>()).prop_map(
            |(suberror, instruction_pointer, instruction)| Outcome::InternalError {
                suberror: suberror % 6,
                instruction_pointer,
                instruction
            }
        ),
        any::<u64>().prop_map(|reason| Outcome::EntryFailed { reason }),
        any::<u32>().prop_map(|reason| Outcome::UnexpectedExit { reason }),
        any::<String>().prop_map(|text| Outcome::RunFailed(io::Error::other(text))),
        Just(()).prop_map(|()| Outcome::Quit),
        any::<i32>().prop_map(Outcome::Signal),
        any::<String>().prop_map(|text| Outcome::ConsoleLost(io::Error::other(text))),
    ]
}

/// Text that looks like a kernel's, cut and mixed with anything.
fn consoles() -> impl Strategy<Value = Vec<u8>> {
    let fragments = prop_oneof![
        any::<Vec<u8>>(),
        prop::sample::select(vec![
            "Kernel panic - not syncing: ",
            "---[ end Kernel panic - not syncing: ",
            "Attempted to kill init! exitcode=0x",
            "VFS: Unable to mount root fs on unknown-block(",
            "VFS: Cannot open root device \"",
            "error -",
            "here are the available partitions:\n",
            "No filesystem could mount root, tried: ",
            "fe00 65536 vda\n",
            "PID: 1 Comm: swapper/0\n",
            ": 0000 [#1]",
            "Initramfs unpacking failed: ",
            "Requested init (error -",
            "No working init found",
            "Out of memory: Killed process",
            "Oops: ",
            "Linux version ",
            "[    1.5] ",
            "\r\n",
            "\x1b]0;",
            "\x1b[",
            "0000009",
            " ]---",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(fragments, 0..40).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn whatever_a_guest_prints_the_explanation_is_short_and_harmless(
        outcome in outcomes(),
        console in consoles(),
        memory_mib: u64,
        has_initrd: bool,
        has_disk: bool,
        built_in: bool,
        command_line: String,
        kernel_moved: u64,
    ) {
        let facts =
            Facts { memory_mib, has_initrd, has_disk, built_in, command_line, kernel_moved, initrd_failure: None };
        let diagnosis = explain(&outcome, &console, &facts);
        prop_assert_eq!(diagnosis.explanation.is_none(), matches!(outcome, Outcome::PoweredOff));
        let Some(explanation) = diagnosis.explanation else { return Ok(()) };
        prop_assert!(explanation.console.len() <= CONSOLE_LINES);
        for line in explanation.to_string().split('\n') {
            prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            prop_assert!(line.chars().count() < 190, "{:?}", line);
        }
    }

    #[test]
    fn every_end_has_a_code_of_the_table_or_of_a_signal(outcome in outcomes(), console in consoles()) {
        let code = explain(&outcome, &console, &Facts::default()).exit_code;
        prop_assert!(code > 128 || exit_code::TABLE.iter().any(|(listed, _)| *listed == code), "{}", code);
    }

    #[test]
    fn no_sentence_of_ours_is_cut_short(outcome in outcomes(), built_in: bool, has_disk: bool, has_initrd: bool) {
        // Their words are the host's.
        if matches!(outcome, Outcome::RunFailed(_) | Outcome::ConsoleLost(_)) {
            return Ok(());
        }
        for console in ["", "x\n", NO_ROOT] {
            let facts = Facts { built_in, has_disk, has_initrd, ..facts() };
            let text = explain(&outcome, console.as_bytes(), &facts).explanation.unwrap_or_default().to_string();
            prop_assert!(!text.lines().any(|line| line.ends_with("...")), "{}", text);
        }
    }
}
