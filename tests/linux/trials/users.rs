//! Users of one host, each with guests of the same name.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tempfile::TempDir;

use super::confinement::{OpenKvm, is_root};
use crate::images::scratch;
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["users":
    two_users_neither_see_nor_touch_each_others_guests,
];

/// Two users without any right beside that to use KVM.
const USERS: [u32; 2] = [65534, 1234];

fn two_users_neither_see_nor_touch_each_others_guests() {
    assert!(is_root(), "this trial is for root");
    let _kvm = OpenKvm::new();
    let directories = USERS.map(|user| {
        let directory = scratch();
        chown(directory.path(), Some(user), Some(user)).unwrap();
        directory
    });
    let [nobody, other] = USERS;
    let [nobodys, others] = &directories;
    for (user, directory) in [(nobody, nobodys), (other, others)] {
        say(
            user,
            directory,
            &["run", "-d", "--name", "web", "--confine", "require"],
        );
        assert_eq!(say(user, directory, &["ps", "-aq"]), "web\n");
    }
    let inspected: serde_json::Value =
        serde_json::from_str(&say(nobody, nobodys, &["inspect", "web"])).unwrap();
    let process = inspected[0]["process"].as_i64().unwrap();

    // A directory of another user is not taken for one's own.
    assert_eq!(say(other, nobodys, &["ps", "-aq"]), "");
    for arguments in [
        ["exec", "web", "true"].as_slice(),
        &["stop", "web"],
        &["kill", "web"],
        &["attach", "web"],
        &["logs", "web"],
        &["inspect", "web"],
        &["pause", "web"],
        &["rm", "-f", "web"],
    ] {
        coracle(other, nobodys, arguments)
            .assert_code(125)
            .assert_explains("there is no guest 'web'");
    }
    // Nor do other programs get anywhere.
    let web = format!("{}/coracle/web", nobodys.path().display());
    for script in [
        format!("ls {web}"),
        format!("cat {web}/console.log"),
        format!("cat {web}/guest.json"),
        format!("echo >{web}/control.sock"),
        format!("rm -r {web}"),
        format!("kill -9 {process}"),
        format!("cat /proc/{process}/environ"),
        format!("cat /proc/{process}/maps"),
        format!("ls /proc/{process}/fd"),
    ] {
        let mut shell = Command::new("sh");
        let refused = shell
            .args(["-c", &script])
            .uid(other)
            .gid(other)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && refused.stdout.is_empty() && stderr.contains("ermi"),
            "{script}: {refused:?}"
        );
    }
    for (user, directory) in [(nobody, nobodys), (other, others)] {
        let printed = say(user, directory, &["exec", "web", "echo", "it runs"]);
        assert_eq!(printed, "it runs\n");
        say(user, directory, &["stop", "web"]);
        assert_eq!(say(user, directory, &["wait", "web"]), "0\n");
    }
}

fn coracle(user: u32, directory: &TempDir, arguments: &[&str]) -> Finished {
    Coracle::program(place::coracle())
        .args(arguments)
        .variable("XDG_RUNTIME_DIR", directory.path())
        .started_by(user)
        .end()
}

#[track_caller]
fn say(user: u32, directory: &TempDir, arguments: &[&str]) -> String {
    let finished = coracle(user, directory, arguments);
    finished.assert_powered_off();
    finished.console()
}
