use super::harness::Outcome;
pub fn a_rule_among_many() -> Outcome {
    Ok(())
}
