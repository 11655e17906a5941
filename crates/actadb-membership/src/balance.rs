//! Leaders spread evenly over nodes: who leads much is who writes and sends much.

/// The bucket whose lead this node should hand over, and to whom: one at a time, when it leads at
/// least two more than another node that is connected. `leaders` has the leader of each bucket, as
/// far as it is known; `others` the nodes that are connected.
#[must_use]
pub fn hand_over(leaders: &[Option<u8>], us: u8, others: &[u8]) -> Option<(usize, u8)> {
    // While somebody's lead is not known, nobody knows who has few.
    if leaders.iter().any(Option::is_none) {
        return None;
    }
    let leads = |node: u8| leaders.iter().filter(|leader| **leader == Some(node)).count();
    let least = others.iter().copied().min_by_key(|node| (leads(*node), *node))?;
    let bucket = leaders.iter().position(|leader| *leader == Some(us))?;
    (leads(us) >= leads(least) + 2).then_some((bucket, least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_are_handed_over_until_nobody_has_two_more_than_another() {
        for buckets in 1..=16_usize {
            let mut leaders = vec![Some(0); buckets];
            let mut moves = 0;
            loop {
                let moved = (0..3).find_map(|node| {
                    let others: Vec<u8> = (0..3).filter(|other| *other != node).collect();
                    hand_over(&leaders, node, &others)
                });
                let Some((bucket, to)) = moved else { break };
                leaders[bucket] = Some(to);
                moves += 1;
                assert!(moves <= buckets, "it comes to an end");
            }
            let counts = [0, 1, 2].map(|n| leaders.iter().filter(|l| **l == Some(n)).count());
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
        }
        assert_eq!(hand_over(&[Some(0), None, Some(0)], 0, &[1]), None, "not all are known");
        assert_eq!(hand_over(&[Some(0), Some(0)], 0, &[]), None, "nobody is there");
    }
}
