//! One message that asks two things. Rules only: whether it truly does is told by what each part finds.

use std::ops::Range;

use crate::base::pattern::pattern;

/// Characters that say nothing by themselves: “请问”, “在吗”, “怎么办”.
const SHORTEST_CHARS: usize = 4;

// What begins another matter, and the end of a question.
pattern!(
    BETWEEN = r"(?i)[?？]+|[，,。；;、\s]*(?:还有|另外|顺便(?:问一?下)?|以及|其次|\b(?:and also|also|besides|by the way)\b)[，,：:\s]*"
);
pattern!(COMMA = r"[，,。；;]");
pattern!(
    ASKS = r"(?i)吗|呢|么|多[少久长大重高]|几[天号点个次克块折时]|怎[么样]|如何|什么|哪|谁|能不能|能否|可不可以|可以|是不是|有没有|何时|\b(?:how|what|when|where|which|who|why|can|could|is|are|does?|do)\b"
);

/// The parts that may ask for themselves, in order; one where only one does.
pub fn matters(text: &str) -> Vec<&str> {
    let between = split(text, &BETWEEN, 0..text.len());
    let parts = between.into_iter().flat_map(|part| {
        let pieces = split(text, &COMMA, part.clone());
        // A comma parts two questions only; what merely tells belongs to its neighbour.
        let all_ask = pieces.iter().all(|piece| ASKS.is_match(&text[piece.clone()]));
        if all_ask { pieces } else { vec![part] }
    });
    let says = |part: &&str| part.chars().filter(|c| c.is_alphanumeric()).count() >= SHORTEST_CHARS;
    parts.map(|part| text[part].trim()).filter(says).collect()
}

fn split(text: &str, mark: &regex::Regex, within: Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut from) = (Vec::new(), within.start);
    for found in mark.find_iter(&text[within.clone()]) {
        parts.push(from..within.start + found.start());
        from = within.start + found.end();
    }
    parts.push(from..within.end);
    parts.retain(|part| !text[part.clone()].trim().is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_questions_are_two() {
        for (text, parts) in [
            ("怎么保存绿茶，还有运费多少", &["怎么保存绿茶", "运费多少"][..]),
            ("绿茶怎么存放，普洱怎么存放", &["绿茶怎么存放", "普洱怎么存放"]),
            ("泡龙井用多少度的水，要放几克", &["泡龙井用多少度的水", "要放几克"]),
            ("能开发票吗？多久发货？", &["能开发票吗", "多久发货"]),
            (
                "How do I return it? And also, who pays",
                &["How do I return it", "And also, who pays"],
            ),
        ] {
            let found = matters(text);
            assert_eq!(found.len(), parts.len(), "{text}: {found:?}");
            assert_eq!(found[0], parts[0]);
        }
    }

    #[test]
    fn one_question_with_what_it_is_about_is_one() {
        for text in [
            "我上周买的茶壶，怎么退货",
            "你好，请问多久发货？",
            "借款没有成功，显示综合评分不足，怎么办",
            "怎么退货",
            "",
        ] {
            assert!(matters(text).len() <= 1, "{text}: {:?}", matters(text));
        }
    }
}
