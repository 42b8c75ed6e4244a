//! Numbers that are computed from a token's position, or from its prompt's.

use mopd_expr::graph::{Graph, NodeId};
use mopd_plan::{Axis, Function, PlainSignal, Reduction, Scan, Signal};

/// `length - position - 1`: 0 at the last token of a completion.
pub fn remaining(graph: &mut Graph) -> NodeId {
    let (length, position) = (graph.signal(PlainSignal::Length), graph.signal(PlainSignal::Position));
    let one = graph.constant(Axis::Run, 1.0);
    let behind = graph.apply(Function::Add, &[position, one]);
    graph.apply(Function::Subtract, &[length, behind])
}

/// Whether the token's turn is the one that ends the completion.
pub fn in_final_turn(graph: &mut Graph) -> NodeId {
    let remaining = remaining(graph);
    let after_turn = graph.reduce(Reduction::Minimum, remaining, Axis::Turn, None);
    let after_turn = graph.broadcast(after_turn, Axis::Token);
    let none = graph.constant(Axis::Run, 0.0);
    graph.apply(Function::Equal, &[after_turn, none])
}

/// The number of the token's turn in its completion, from 0.
pub fn turn(graph: &mut Graph) -> NodeId {
    let position = graph.signal(PlainSignal::Position);
    let first = graph.reduce(Reduction::Minimum, position, Axis::Turn, None);
    let first = graph.broadcast(first, Axis::Token);
    let begins = graph.apply(Function::Equal, &[position, first]);
    let begun = graph.scan(Scan::Sum, begins, Axis::Sequence, None);
    let one = graph.constant(Axis::Run, 1.0);
    graph.apply(Function::Subtract, &[begun, one])
}

/// Whether the prompt is of the domain at this place in the mixture of the stage.
pub fn in_domain(graph: &mut Graph, place: usize) -> NodeId {
    let (domain, place) = (graph.signal(Signal::DomainPlace), graph.constant(Axis::Run, place as f64));
    graph.apply(Function::Equal, &[domain, place])
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopd_expr::batch::{Batch, Layout, TokenPartition};
    use mopd_expr::interpret::interpret;

    #[test]
    fn turns_are_counted_and_the_final_one_is_the_last_of_its_completion() {
        let mut graph = Graph::default();
        let of_token = [remaining(&mut graph), in_final_turn(&mut graph), turn(&mut graph)];
        let layout = Layout {
            sequence_of_token: vec![0, 0, 0, 0, 0, 1, 1],
            group_of_sequence: vec![0, 0],
            groups: 1,
            turns: Some(TokenPartition { of_token: vec![0, 0, 1, 2, 2, 3, 3], parent: vec![0, 0, 0, 1] }),
            ..Layout::default()
        };
        let values = interpret(&graph, &of_token, &Batch { layout, ..Batch::default() }).unwrap();
        assert_eq!(values.get(of_token[0]), [4.0, 3.0, 2.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(values.get(of_token[1]), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(values.get(of_token[2]), [0.0, 0.0, 1.0, 2.0, 2.0, 0.0, 0.0]);
    }
}
