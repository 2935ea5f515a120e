//! Order of rows that are loaded one table after the other while their foreign keys are there already.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Puts what is referred to before what refers to it; all else stays in the order it came in. `refers` are pairs (what
/// refers, what it refers to). In a circle, as it came.
pub(crate) fn referred_first<T, K: Eq + Hash + Clone>(
    items: Vec<T>,
    key: impl Fn(&T) -> K,
    refers: &[(K, K)],
) -> Vec<T> {
    let mut to: HashMap<&K, Vec<&K>> = HashMap::new();
    for (from, other) in refers {
        to.entry(from).or_default().push(other);
    }
    let keys: Vec<K> = items.iter().map(key).collect();
    let mut places: HashMap<&K, Vec<usize>> = HashMap::new();
    for (at, key) in keys.iter().enumerate() {
        places.entry(key).or_default().push(at);
    }
    let referred = |at: usize| keys.get(at).and_then(|key| to.get(key)).into_iter().flatten();
    let mut order = Vec::with_capacity(items.len());
    let mut seen = HashSet::new();
    // Each on the stack waits for what it refers to: depth first, without recursion, however long a chain is.
    for first in 0..items.len() {
        let mut stack = vec![(first, false)];
        while let Some((at, referred_are_done)) = stack.pop() {
            if referred_are_done {
                order.push(at);
            } else if seen.insert(at) {
                stack.push((at, true));
                let mut others: Vec<usize> =
                    referred(at).filter_map(|key| places.get(key)).flatten().copied().collect();
                others.sort_unstable_by(|a, b| b.cmp(a));
                stack.extend(others.into_iter().map(|other| (other, false)));
            }
        }
    }
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| items.get_mut(at).and_then(Option::take)).collect()
}

#[cfg(test)]
mod tests {
    use super::referred_first;

    fn ordered(items: &str, refers: &[(char, char)]) -> String {
        referred_first(items.chars().collect(), |c| *c, refers).into_iter().collect()
    }

    #[test]
    fn what_is_referred_to_comes_first_and_the_rest_stays() {
        assert_eq!(ordered("abcd", &[]), "abcd");
        assert_eq!(ordered("abcd", &[('a', 'd')]), "dabc");
        assert_eq!(ordered("abcd", &[('a', 'd'), ('d', 'b'), ('a', 'c')]), "cbda");
        let partitions: Vec<(char, u8)> = vec![('a', 1), ('b', 1), ('b', 2)];
        assert_eq!(referred_first(partitions, |one| one.0, &[('a', 'b')]), [('b', 1), ('b', 2), ('a', 1)]);
        assert_eq!(ordered("abcd", &[('d', 'a'), ('c', 'b'), ('b', 'b'), ('b', 'x')]), "abcd");
    }

    #[test]
    fn a_circle_keeps_everything() {
        assert_eq!(ordered("abc", &[('a', 'b'), ('b', 'c'), ('c', 'a')]), "cba");
        assert_eq!(ordered("abcd", &[('b', 'c'), ('c', 'b'), ('a', 'd')]), "dacb");
    }
}
