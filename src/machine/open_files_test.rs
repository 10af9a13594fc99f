use super::*;

fn is_missing(config: Config) -> bool {
    OpenFiles::open(&config).err().unwrap().is_missing_file()
}

#[test]
fn a_missing_kernel_initrd_or_disk_is_a_missing_file() {
    assert!(is_missing(Config {
        kernel: Some("/no/such/kernel".into()),
        ..Config::default()
    }));
    let kernel = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kernel.path(), "not a kernel").unwrap();
    let with_kernel = || Config {
        kernel: Some(kernel.path().into()),
        ..Config::default()
    };
    assert!(is_missing(Config {
        initrd: Some("/no/such/initrd".into()),
        ..with_kernel()
    }));
    assert!(is_missing(Config {
        disks: vec!["/no/such/disk".parse().unwrap()],
        ..with_kernel()
    }));
    assert!(BootFiles::open(&with_kernel()).is_ok());
    // A disk that nobody hands over is not looked for by its name.
    let disk = Disk::handed_over("/no/such/disk".into(), true);
    let config = Config {
        disks: vec![disk],
        ..with_kernel()
    };
    let error = OpenFiles::open_with(&config, Vec::new()).err().unwrap();
    assert!(
        !error.is_missing_file() && error.to_string().contains("handed over"),
        "{error}"
    );
}
