use super::*;
use crate::confine::State;

fn healthy_host() -> Host {
    Host {
        processor: "Some CPU".into(),
        vmx: true,
        modules: vec!["kvm_intel".into()],
        huge_pages: Some("madvise".into()),
        cpus: 8,
        memory_mib: 16000,
        available_mib: 12000,
        ..Host::default()
    }
}

fn offer(guest: f64, missing: &[&'static str]) -> Offer {
    let capability = Capability {
        name: "KVM_CAP_IOEVENTFD",
        required: true,
        present: true,
    };
    Offer {
        capabilities: vec![capability],
        speed: Ok(Speed {
            guest,
            host: 0.4,
            missing: missing.to_vec(),
        }),
    }
}

fn unopened(errno: i32) -> Result<Offer, kvm::Error> {
    Err(kvm::Error::Open {
        source: io::Error::from_raw_os_error(errno),
    })
}

fn find<'a>(report: &'a Report, name: &str) -> &'a Check {
    report.checks.iter().find(|check| check.name == name).unwrap()
}

#[test]
fn a_healthy_host_will_boot_linux() {
    let report = examine(&Ok(offer(0.5, &[])), &healthy_host());
    assert!(
        report
            .checks
            .iter()
            .all(|check| check.status == Status::Ok && check.next.is_none()),
        "{report}"
    );
    assert!(report.to_string().ends_with("\nLinux will boot on this host.\n"));
}

#[test]
fn a_kvm_that_interprets_guest_kernels_will_not_boot_linux() {
    let report = examine(&Ok(offer(2000.0, &["popcnt", "SSE"])), &healthy_host());
    assert!(!report.linux_will_boot());
    let check = find(&report, "guest kernels");
    assert_eq!(check.status, Status::Failed);
    assert!(
        check
            .found
            .contains("interpreted by this KVM: 2000 ns an instruction, 5000 times"),
        "{}",
        check.found
    );
    assert!(check.found.ends_with("without popcnt, SSE"), "{}", check.found);
    assert!(check.next.as_deref().unwrap().contains("make run"));
    assert!(
        report
            .to_string()
            .ends_with("\nLinux will not boot on this host.\n")
    );
}

#[test]
fn a_slow_but_fair_kvm_will_boot_linux() {
    let mut offer = offer(60.0, &[]);
    offer.speed = Ok(Speed {
        guest: 60.0,
        host: 20.0,
        missing: vec![],
    });
    let host = Host {
        vmx: false,
        svm: false,
        is_virtual: true,
        ..healthy_host()
    };
    assert!(examine(&Ok(offer), &host).linux_will_boot());
}

#[test]
fn a_forbidden_device_is_answered_with_the_command_that_allows_it() {
    let report = examine(&unopened(libc::EACCES), &healthy_host());
    assert!(!report.linux_will_boot());
    let check = find(&report, "/dev/kvm");
    assert_eq!(check.found, "permission denied");
    assert!(
        check
            .next
            .as_deref()
            .unwrap()
            .contains("sudo usermod -aG kvm $USER")
    );
}

#[test]
fn a_missing_device_is_answered_by_what_the_host_is() {
    let cases = [
        (
            Host {
                is_container: true,
                ..healthy_host()
            },
            "--device /dev/kvm",
        ),
        (healthy_host(), "modprobe kvm_intel"),
        (
            Host {
                vmx: false,
                svm: true,
                ..healthy_host()
            },
            "modprobe kvm_amd",
        ),
        (
            Host {
                vmx: false,
                is_virtual: true,
                ..healthy_host()
            },
            "nested virtualization",
        ),
        (
            Host {
                vmx: false,
                ..healthy_host()
            },
            "firmware",
        ),
    ];
    for (host, next) in cases {
        let report = examine(&unopened(libc::ENOENT), &host);
        assert!(!report.linux_will_boot());
        assert!(
            find(&report, "/dev/kvm").next.as_deref().unwrap().contains(next),
            "{report}"
        );
    }
}

#[test]
fn a_device_without_its_module_is_told_from_a_missing_one() {
    let report = examine(&unopened(libc::ENODEV), &healthy_host());
    assert!(find(&report, "/dev/kvm").found.contains("no module"), "{report}");
}

#[test]
fn a_missing_capability_is_named_and_only_a_required_one_is_fatal() {
    let mut offer = offer(0.5, &[]);
    offer.capabilities.push(Capability {
        name: "KVM_CAP_TSC_DEADLINE_TIMER",
        required: false,
        present: false,
    });
    let report = examine(&Ok(offer), &healthy_host());
    assert!(report.linux_will_boot());
    assert_eq!(find(&report, "capabilities").status, Status::Warning);

    let mut offer = self::offer(0.5, &[]);
    offer.capabilities.push(Capability {
        name: "KVM_CAP_IOEVENTFD",
        required: true,
        present: false,
    });
    let report = examine(&Ok(offer), &healthy_host());
    assert!(!report.linux_will_boot());
    assert!(find(&report, "capabilities").found.contains("KVM_CAP_IOEVENTFD"));
}

#[test]
fn another_version_of_kvm_is_fatal() {
    let report = examine(&Err(kvm::Error::Version(11)), &healthy_host());
    assert!(!report.linux_will_boot());
    assert!(find(&report, "KVM API").found.contains("11"), "{report}");
}

#[test]
fn a_test_guest_that_does_not_run_is_fatal() {
    let source = io::Error::other("it did not come to its end");
    let offer = Offer {
        speed: Err(kvm::Error::Call {
            what: "run a test guest",
            source,
        }),
        ..offer(0.5, &[])
    };
    let report = examine(&Ok(offer), &healthy_host());
    assert!(!report.linux_will_boot());
    assert_eq!(
        find(&report, "guest kernels").found,
        "KVM could not run a test guest: it did not come to its end"
    );
}

#[test]
fn small_wants_are_warnings_and_linux_still_boots() {
    let host = Host {
        huge_pages: Some("never".into()),
        available_mib: 100,
        ..healthy_host()
    };
    let report = examine(&Ok(offer(0.5, &[])), &host);
    assert!(report.linux_will_boot());
    assert_eq!(find(&report, "huge pages").status, Status::Warning);
    assert_eq!(find(&report, "memory").status, Status::Warning);
}

#[test]
fn only_a_terminal_gets_colours() {
    let report = examine(&Ok(offer(0.5, &[])), &healthy_host());
    assert!(!report.to_string().contains('\x1b'));
    assert!(report.coloured().contains('\x1b'));
    assert!(report.to_string().lines().count() == report.checks.len() + 1);
}

#[test]
fn a_run_without_kvm_gets_the_advice_of_the_report() {
    let container = Host {
        is_container: true,
        ..healthy_host()
    };
    for host in [healthy_host(), container] {
        for errno in [libc::ENOENT, libc::EACCES, libc::ENODEV] {
            let report = examine(&unopened(errno), &host);
            let advice = find(&report, "/dev/kvm").next.clone().unwrap();
            let source = io::Error::from_raw_os_error(errno);
            let error = machine::Error::Kvm(kvm::Error::Open { source });
            let text = with_advice(&error, || host.clone());
            assert!(text.contains(&advice), "{text} lacks {advice}");
            assert!(text.contains("coracle doctor"), "{text}");
        }
    }
}

#[test]
fn confinement_is_a_warning_where_a_layer_is_missing_and_says_why() {
    let layer = |name, state| Layer { name, state };
    let enforced = layer("files", State::Enforced("no file can be opened"));
    assert_eq!(confinement(std::slice::from_ref(&enforced)).status, Status::Ok);
    let missing = layer("TCP", State::Missing("this needs Linux 6.7 or later".into()));
    let check = confinement(&[enforced, missing]);
    assert_eq!(check.status, Status::Warning);
    assert!(
        check
            .found
            .ends_with("files; not TCP: this needs Linux 6.7 or later"),
        "{}",
        check.found
    );
}
