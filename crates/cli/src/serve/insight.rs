//! What the proxy counts of tenants, for the control plane that keeps it: neither knows the other.

use model::insight::{QUESTIONS_MAX, Question, Questions};
use proxy::Numbers;
use tokio::sync::mpsc;

/// Answers with the numbers of now, until nobody can ask any more.
pub(super) fn answer(numbers: Numbers) -> Questions {
    let (questions, mut asked) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            match question {
                Question::Pools(reply) => {
                    let _ = reply.send(numbers.pools());
                }
                Question::All(reply) => drop(reply.send(numbers.counts().await)),
                Question::One {
                    tenant,
                    statements_max,
                    reply,
                } => drop(reply.send(numbers.detail(&tenant, statements_max).await)),
                Question::Connections {
                    tenant,
                    most,
                    reply,
                } => drop(reply.send(numbers.connections(&tenant, most).await)),
            }
        }
    });
    questions
}
