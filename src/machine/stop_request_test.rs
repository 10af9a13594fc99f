use super::*;

#[test]
fn the_first_outcome_is_that_of_the_run() {
    let stop = StopRequest::new().unwrap();
    assert!(!stop.is_made());
    stop.make(Outcome::PoweredOff);
    stop.make(Outcome::Reset);
    assert!(stop.is_made());
    assert_eq!(stop.event().read().unwrap(), 1);
    assert!(matches!(stop.take_outcome(), Some(Outcome::PoweredOff)));
}
