//! Containers that a benchmark runs beside guests, inside the nested machine.

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::nested;

/// Where the built-in guest's initrd is inside the nested machine.
pub const INITRD: &str = "/guest-images/out/initrd";
pub const BUNDLE: &str = "/run/bundle";

/// The runtimes, as files to put inside. Installs them if they are missing.
pub fn runtimes() -> Result<[(PathBuf, &'static str); 2], Box<dyn Error>> {
    nested::call("guest-images/need", &["crun", "runc"])?;
    Ok(["/usr/bin/crun", "/usr/sbin/runc"].map(|path| (path.into(), path)))
}

/// Makes a bundle as the runtimes make it themselves, with `files` of the guest's initrd and without a terminal. Containers
/// run `command`.
pub fn make_bundle(files: &[&str], command: &[&str]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(format!("{BUNDLE}/rootfs"))?;
    let unpacked = Command::new("cpio")
        .args(["-i", "-d"])
        .args(files)
        .current_dir(format!("{BUNDLE}/rootfs"))
        .stdin(File::open(INITRD)?)
        .status()?;
    if !unpacked.success() {
        return Err("the initrd cannot be unpacked".into());
    }
    let made = Command::new("runc").args(["spec", "--bundle", BUNDLE]).status()?;
    if !made.success() {
        return Err("runc makes no bundle".into());
    }
    set_command(command)
}

/// Containers that are started from now on run `command`.
pub fn set_command(command: &[&str]) -> Result<(), Box<dyn Error>> {
    let path = format!("{BUNDLE}/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["args"] = json!(command);
    config["process"]["terminal"] = json!(false);
    fs::write(path, serde_json::to_vec(&config)?)?;
    Ok(())
}

/// The command that starts a container of the bundle.
pub fn start(runtime: &str, options: &[&str], name: &str) -> Command {
    let mut command = Command::new(runtime);
    command.args(["run", "--bundle", BUNDLE]).args(options).arg(name);
    command
}
