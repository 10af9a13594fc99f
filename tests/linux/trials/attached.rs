//! Terminals that are attached to the console of a guest in the background.

use crate::harbour::Harbour;
use crate::run::Run;

crate::group!["attached":
    a_person_attaches_works_detaches_and_comes_back,
    two_persons_work_in_one_shell_until_one_of_them_powers_off,
];

const PROMPT: &str = "coracle guest:";

fn attach(harbour: &Harbour) -> Run {
    let mut run = harbour.coracle(&["attach", "web"]).on_terminal().start();
    run.wait_for(PROMPT);
    assert!(run.terminal_modes().is_raw());
    run
}

fn a_person_attaches_works_detaches_and_comes_back() {
    let harbour = Harbour::new();
    assert_eq!(harbour.say(&["run", "-d", "--name", "web"]), "web\n");
    let mut run = attach(&harbour);
    run.type_in("echo six times seven is $((6 * 7))\r");
    run.wait_for("six times seven is 42");
    run.type_in("sh -c 'echo is sl\\eeping; exec sleep 1000'\r");
    run.wait_for("is sleeping");
    run.type_in("\x03");
    run.wait_for(PROMPT);
    // A serial line has no size, so the person says it.
    run.resize(40, 120);
    run.type_in("stty rows 40 cols 120; stty size\r");
    run.wait_for("\n40 120");
    run.wait_for(PROMPT);
    run.type_in("\x01d");
    let finished = run.end();
    finished.assert_code(0).assert_terminal_restored();
    finished.assert_explains("detached from guest 'web', which runs on");
    assert_eq!(harbour.say(&["ps", "-q"]), "web\n");

    let mut again = attach(&harbour);
    // The last lines come first.
    again.wait_for("\n40 120");
    again.type_in("\x01h");
    again.wait_for_message("Ctrl-A d ");
    again.type_in("poweroff\r");
    again.end().assert_code(0).assert_terminal_restored();
    assert_eq!(harbour.say(&["wait", "web"]), "0\n");
}

fn two_persons_work_in_one_shell_until_one_of_them_powers_off() {
    let harbour = Harbour::new();
    assert_eq!(harbour.say(&["run", "-d", "--name", "web"]), "web\n");
    let (mut one, mut other) = (attach(&harbour), attach(&harbour));
    one.type_in("echo one $((1 + 1))\r");
    other.wait_for("one 2");
    other.type_in("echo other $((2 + 2))\r");
    one.wait_for("other 4");
    one.wait_for(PROMPT);
    one.type_in("poweroff\r");
    one.end().assert_powered_off().assert_terminal_restored();
    other.end().assert_powered_off().assert_terminal_restored();
}
