//! Kernel parameters that turn off what the guest needs.
//!
//! Devices interrupt by the IO-APIC, and ACPI says so to kernels that ask it: they set up no older interrupt controller
//! (ACPI 6.4 section 3.11.1). Without the IO-APIC such a kernel crashes, and the built-in one gets no output out. With
//! `acpi=off` a kernel finds the 8259 of KVM instead, and these parameters do what they say.

use super::parameters::{Parameter, last_value, parameters};

/// A parameter with which the guest would not work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel parameter {parameter} turns off {what}: {advice}")]
pub struct Refused {
    parameter: &'static str,
    what: &'static str,
    advice: String,
}

/// One parameter that is refused.
struct Rule {
    name: &'static str,
    /// The value with which it is refused; none when it takes no value.
    value: Option<&'static str>,
    /// As it is written.
    parameter: &'static str,
    what: &'static str,
    /// Whether the built-in kernel minds it.
    built_in: bool,
    instead: &'static str,
}

const IO_APIC: &str = "the IO-APIC, by which devices interrupt";
const LOCAL_APIC: &str = "the local APIC, by which processors are interrupted";
const LEAVE_OUT: &str = "leave it out";

const RULES: &[Rule] = &[
    Rule {
        name: "noapic",
        value: None,
        parameter: "noapic",
        what: IO_APIC,
        built_in: true,
        instead: LEAVE_OUT,
    },
    Rule {
        name: "nosmp",
        value: None,
        parameter: "nosmp",
        what: IO_APIC,
        built_in: true,
        instead: "leave it out and use --cpus 1, or maxcpus=1",
    },
    Rule {
        name: "maxcpus",
        value: Some("0"),
        parameter: "maxcpus=0",
        what: IO_APIC,
        built_in: true,
        instead: "leave it out and use --cpus 1, or maxcpus=1",
    },
    Rule {
        name: "nolapic",
        value: None,
        parameter: "nolapic",
        what: LOCAL_APIC,
        built_in: true,
        instead: LEAVE_OUT,
    },
    Rule {
        name: "disableapic",
        value: None,
        parameter: "disableapic",
        what: LOCAL_APIC,
        built_in: true,
        instead: LEAVE_OUT,
    },
    Rule {
        name: "acpi",
        value: Some("noirq"),
        parameter: "acpi=noirq",
        what: "what ACPI says of interrupts",
        built_in: false,
        instead: LEAVE_OUT,
    },
    Rule {
        name: "pci",
        value: Some("noacpi"),
        parameter: "pci=noacpi",
        what: "what ACPI says of interrupts",
        built_in: false,
        instead: "use pci=off, or leave it out",
    },
];

impl Rule {
    fn is_about(&self, parameter: &Parameter) -> bool {
        parameter.is(self.name)
            && match self.value {
                None => parameter.value.is_none(),
                Some(value) => parameter.has(value),
            }
    }
}

/// Refuses a command line that turns off what the guest needs. `built_in`: whether it is for the built-in kernel.
pub fn check(text: &str, built_in: bool) -> Result<(), Refused> {
    if !built_in && last_value(text, "acpi") == Some("off") {
        return Ok(());
    }
    let rules = || RULES.iter().filter(|rule| rule.built_in || !built_in);
    let refused = parameters(text).find_map(|parameter| rules().find(|rule| rule.is_about(&parameter)));
    match refused {
        None => Ok(()),
        Some(rule) => Err(Refused {
            parameter: rule.parameter,
            what: rule.what,
            advice: match built_in {
                true => rule.instead.into(),
                false => format!(
                    "{}; or add acpi=off, with which a kernel finds devices by virtio_mmio.device= alone and cannot \
                     power off",
                    rule.instead
                ),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_off_interrupts_is_refused_by_name_with_what_to_do() {
        for (text, told) in [
            (
                "console=ttyS0 noapic reboot=k",
                "parameter noapic turns off the IO-APIC",
            ),
            ("nosmp", "use --cpus 1"),
            ("maxcpus=0", "parameter maxcpus=0 turns off the IO-APIC"),
            ("nolapic", "the local APIC"),
            ("disableapic", "the local APIC"),
        ] {
            for built_in in [true, false] {
                let error = check(text, built_in).unwrap_err().to_string();
                assert!(error.contains(told), "{error}");
                assert_eq!(error.contains("acpi=off"), !built_in, "{error}");
            }
        }
        for text in ["acpi=noirq", "pci=nocrs,noacpi"] {
            assert!(
                check(text, false).unwrap_err().to_string().contains("ACPI"),
                "{text}"
            );
            assert_eq!(check(text, true), Ok(()), "the built-in kernel knows no ACPI");
        }
    }

    #[test]
    fn what_is_harmless_and_what_is_no_parameter_passes() {
        for text in [
            "",
            "pci=off nox2apic apic=verbose noapictimer nolapic_timer maxcpus=1 acpi=strict lapic=notscdeadline",
            "quiet -- noapic nosmp",
            "dyndbg=\"noapic nosmp\"",
            "noapic=1",
        ] {
            for built_in in [true, false] {
                assert_eq!(check(text, built_in), Ok(()), "{text}");
            }
        }
    }

    #[test]
    fn without_acpi_a_kernel_has_older_controllers_and_the_built_in_one_never() {
        assert_eq!(check("noapic acpi=off", false), Ok(()));
        assert!(check("noapic acpi=off acpi=force", false).is_err());
        assert!(check("noapic acpi=off", true).is_err());
    }
}
