use super::harness::Outcome;
pub fn leave_what_iptables_leaves() -> Outcome {
    Ok(())
}
pub fn services_are_reached() -> Outcome {
    Ok(())
}
