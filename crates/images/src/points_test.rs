//! A process killed at each of its points, and two at once. Afterwards nothing is lost, and the same command does its work.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::trial::{KILLED_AFTER, LOG};
use crate::credentials::Credentials;
use crate::load::{load, load_stream};
use crate::made::{Made, archive, gzip, image, plain};
use crate::registry::hostile_server::Server;
use crate::registry::{Cancel, Client, Options};
use crate::store::Store;
use crate::{Error, Platform, Result};

const WORK: &str = "CORACLE_IMAGES_TRIAL";
const DIRECTORY: &str = "CORACLE_IMAGES_DIRECTORY";
const HOST: &str = "CORACLE_IMAGES_HOST";

/// What a process is killed at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Work {
    Load,
    LoadStream,
    Pull,
    Remove,
    Prune,
}

use Work::{Load, LoadStream, Prune, Pull, Remove};

impl Work {
    fn run(self, directory: &Path, host: &str) -> Result<()> {
        let store = Store::open(directory.join("store"))?;
        let platform = Platform::default();
        match self {
            Load => load(&directory.join("archive"), &store, &platform).map(drop),
            LoadStream => load_stream(
                fs::File::open(directory.join("archive")).unwrap(),
                &store,
                &platform,
            )
            .map(drop),
            Pull => {
                let client = Client::new(Options::default(), Credentials::default(), Cancel::default())?;
                let name = format!("{host}/a/b:1").parse()?;
                client.pull(&name, &platform, &store, &()).map(drop)
            }
            Remove => match store.remove("gone:1", false) {
                // The name went before the process did.
                Err(Error::Missing(_)) => Ok(()),
                removed => removed.map(drop),
            },
            Prune => store.prune().map(drop),
        }
    }
}

#[test]
#[ignore = "the other tests run it, in processes of their own"]
fn one_process() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    let work = [Load, LoadStream, Pull, Remove, Prune]
        .into_iter()
        .find(|other| format!("{other:?}") == work);
    let text = |name| std::env::var(name).unwrap();
    work.unwrap()
        .run(Path::new(&text(DIRECTORY)), &text(HOST))
        .unwrap();
}

struct Trial {
    directory: TempDir,
    server: Server,
    kept: Made,
    new: Made,
}

impl Trial {
    /// A store with an image that is to stay, one that is to go, and one to get that shares a layer with each.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let new = image(&["kept", "new", "gone"], gzip);
        let (kept, gone) = (image(&["kept"], gzip), image(&["kept", "only"], plain));
        let store = Store::open(directory.path().join("store")).unwrap();
        for (made, name) in [(&kept, "kept:1"), (&gone, "gone:1")] {
            load_stream(&archive(&made.layout(name))[..], &store, &Platform::default()).unwrap();
        }
        // Something for `prune`.
        load_stream(
            &archive(&image(&["old"], gzip).layout("moved"))[..],
            &store,
            &Platform::default(),
        )
        .unwrap();
        load_stream(&archive(&kept.layout("moved"))[..], &store, &Platform::default()).unwrap();
        fs::write(store.directory().join("partial/spool-left"), "left").unwrap();
        fs::write(directory.path().join("archive"), archive(&new.docker(&["new:1"]))).unwrap();
        let server = Server::of(&new, |_, _| false);
        Self {
            directory,
            server,
            kept,
            new,
        }
    }

    fn start(&self, work: Work, variable: (&str, String)) -> Child {
        // This very file, whatever has its name by now.
        let mut command = Command::new("/proc/self/exe");
        command.args([
            "--exact",
            "points::tests::one_process",
            "--ignored",
            "--nocapture",
        ]);
        command
            .env(WORK, format!("{work:?}"))
            .env(DIRECTORY, self.directory.path())
            .env(HOST, self.server.host());
        command
            .env(variable.0, variable.1)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Nothing is lost, nothing is in the way, and what was begun can be done.
    fn check(&self, work: Work, point: &str) {
        let store = Store::open(self.directory.path().join("store")).unwrap();
        let problems = store.verify(|_| ()).unwrap();
        assert!(problems.is_empty(), "{work:?} at {point}: {problems:?}");
        let has = |name: &str| match store.find(name, &Platform::default()) {
            Ok(image) => Some(image.id().unwrap()),
            Err(Error::Missing(_)) => None,
            Err(error) => panic!("{work:?} at {point}: {error}"),
        };
        assert_eq!(has("kept:1"), Some(self.kept.id()), "{work:?} at {point}");
        work.run(self.directory.path(), &self.server.host()).unwrap();
        match work {
            Load | LoadStream => assert_eq!(has("new:1"), Some(self.new.id())),
            Pull => assert_eq!(has(&format!("{}/a/b:1", self.server.host())), Some(self.new.id())),
            Remove => assert_eq!(has("gone:1"), None),
            Prune => {}
        }
        store.prune().unwrap();
        assert!(store.verify(|_| ()).unwrap().is_empty(), "{work:?} at {point}");
        assert_eq!(
            fs::read_dir(store.directory().join("partial")).unwrap().count(),
            0
        );
    }
}

fn is_killed_everywhere(work: Work) {
    let trial = Trial::new();
    let log = trial.directory.path().join("log");
    let status = trial
        .start(work, (LOG, log.to_str().unwrap().to_owned()))
        .wait()
        .unwrap();
    assert!(status.success());
    let points = fs::read_to_string(&log).unwrap();
    let points: Vec<_> = points.lines().collect();
    assert!(points.len() > 2, "{points:?}");
    for (at, point) in points.iter().enumerate() {
        let trial = Trial::new();
        let status = trial.start(work, (KILLED_AFTER, at.to_string())).wait().unwrap();
        // Threads reach points in another order each time, and some not at all.
        assert!(
            status.signal() == Some(9) || status.success(),
            "{work:?} at {point}: {status}"
        );
        trial.check(work, point);
    }
    println!("{work:?}: {} points: {points:?}", points.len());
}

#[test]
fn a_killed_load_leaves_nothing_wrong() {
    is_killed_everywhere(Load);
    is_killed_everywhere(LoadStream);
}

#[test]
fn a_killed_pull_leaves_nothing_wrong_and_goes_on() {
    is_killed_everywhere(Pull);
}

#[test]
fn a_killed_removal_leaves_nothing_wrong() {
    is_killed_everywhere(Remove);
    is_killed_everywhere(Prune);
}

#[test]
fn two_of_each_at_once_get_on() {
    let all = [Load, LoadStream, Pull, Remove, Prune];
    for work in all {
        let trial = Trial::new();
        let nothing = || ("CORACLE_IMAGES_NOTHING", String::new());
        let children: Vec<_> = all
            .iter()
            .flat_map(|other| [trial.start(work, nothing()), trial.start(*other, nothing())])
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        trial.check(work, "its end");
    }
}
