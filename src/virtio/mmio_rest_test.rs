//! Devices that rest, and devices made anew of what those hold.

use super::*;

#[test]
fn a_device_that_rested_gets_its_queues_where_it_left_them() {
    let log = Arc::<FakeLog>::default();
    let mut driver = Driver::new(Box::new(Fake {
        log: log.clone(),
        ..Fake::default()
    }));
    driver.start(ALL_FEATURES, 8);
    let position = || {
        let activation = log.activation.lock().unwrap();
        let queues = activation.as_ref().map(|activation| &activation.queues);
        queues.map(|queues| {
            queues
                .iter()
                .map(|queue| (queue.index, queue.queue.next_avail(), queue.queue.next_used()))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(position(), Some(vec![(0, 0, 0)]));
    for round in 1..4 {
        driver.transport.pause();
        assert_eq!(position(), None);
        driver.transport.resume();
        assert_eq!(position(), Some(vec![(0, 7 * round, 7 * round)]));
    }
    assert_eq!(log.resets.load(Ordering::SeqCst), 0);
    // A driver that starts anew starts at the beginning.
    driver.reset();
    driver.start(ALL_FEATURES, 8);
    assert_eq!(position(), Some(vec![(0, 0, 0)]));
}

#[test]
fn a_device_without_a_driver_or_with_a_broken_queue_or_at_its_end_does_not_go_on_after_a_pause() {
    let new = |breaks| {
        let log = Arc::<FakeLog>::default();
        let fake = Fake {
            log: log.clone(),
            breaks,
            ..Fake::default()
        };
        (Driver::new(Box::new(fake)), log)
    };
    let (driver, log) = new(None);
    driver.transport.pause();
    driver.transport.resume();
    assert!(!log.active() && !driver.needs_reset());

    let (mut driver, log) = new(Some(0));
    driver.start(ALL_FEATURES, 8);
    driver.transport.pause();
    driver.transport.resume();
    assert!(!log.active());

    let (mut driver, log) = new(None);
    driver.start(ALL_FEATURES, 8);
    driver.transport.pause();
    driver.transport.stop();
    driver.transport.resume();
    assert!(!log.active());
}

/// What happens to a device.
#[derive(Clone, Debug)]
enum Step {
    /// All steps of section 3.1.1.
    Start,
    /// The device interrupts the driver.
    NotifyUsed,
    NeedReset,
    Reset,
    /// A write to one of [`REGISTERS`].
    Write(usize, u32),
    WriteAnywhere(u64, u32),
    MakeAnew,
}

const REGISTERS: [u32; 9] = [
    VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_INTERRUPT_ACK,
];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Start),
        2 => Just(Step::NotifyUsed),
        1 => Just(Step::NeedReset),
        1 => Just(Step::Reset),
        4 => (0..REGISTERS.len(), 0u32..4).prop_map(|(register, value)| Step::Write(register, value)),
        2 => (0u64..0x110, any::<u32>()).prop_map(|(offset, value)| Step::WriteAnywhere(offset, value)),
        3 => Just(Step::MakeAnew),
    ]
}

proptest! {
    /// Whatever happens, two devices answer the same, one of which is made anew whenever the other is only paused.
    #[test]
    fn a_device_made_anew_answers_as_one_that_never_stopped(steps in prop::collection::vec(step(), 1..60)) {
        let mut devices = [fake(), fake()];
        for step in steps {
            for (number, (driver, log)) in devices.iter_mut().enumerate() {
                let interrupt = || log.activation.lock().unwrap().as_ref().map(|active| active.interrupt.clone());
                match step {
                    Step::Start => {
                        driver.reset();
                        driver.start(ALL_FEATURES, 8);
                    }
                    Step::NotifyUsed => _ = interrupt().map(|interrupt| interrupt.notify_used()),
                    Step::NeedReset => _ = interrupt().map(|interrupt| interrupt.need_reset()),
                    Step::Reset => driver.reset(),
                    Step::Write(register, value) => driver.write(REGISTERS[register], value),
                    Step::WriteAnywhere(offset, value) => driver.transport.write(offset, &value.to_le_bytes()),
                    Step::MakeAnew => {
                        driver.transport.pause();
                        match number {
                            0 => driver.transport.resume(),
                            _ => {
                                let anew = Fake::default();
                                *log = anew.log.clone();
                                driver.resume_anew(|| Box::new(anew));
                            }
                        }
                    }
                }
            }
            let [(paused, paused_log), (anew, anew_log)] = &devices;
            prop_assert_eq!(paused_log.active(), anew_log.active());
            for register in REGISTERS {
                prop_assert_eq!(paused.read(register), anew.read(register));
            }
        }
        let states = devices.map(|(driver, _)| {
            driver.transport.pause();
            driver.transport.state()
        });
        prop_assert_eq!(&states[0], &states[1]);
    }
}

#[test]
fn the_state_of_another_device_is_refused() {
    let (driver, _) = fake();
    driver.transport.pause();
    let state = driver.transport.state();
    let made = |state: &TransportState| {
        let line = Interrupt::new(|| Ok(()));
        MmioTransport::from_state(driver.memory.clone(), line, Box::new(Fake::default()), state).is_ok()
    };
    assert!(made(&state));
    let mut other = state.clone();
    other.queues.pop();
    assert!(!made(&other));
    let other = TransportState {
        driver_features: 1 << 6,
        ..state.clone()
    };
    assert!(made(&other), "nothing is agreed on yet");
    let other = TransportState {
        status: VIRTIO_CONFIG_S_FEATURES_OK,
        ..other
    };
    assert!(!made(&other));
    let other = TransportState {
        device: DeviceState::Block { writeback: true },
        ..state
    };
    assert!(!made(&other));
}
