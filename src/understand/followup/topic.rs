//! What a conversation is about: the things that were named last.

use super::content::{Part, is_latin, parts};
use super::{MARKER, PRONOUN, candidates};
use crate::base::pattern::pattern;
use crate::base::words::tagged;

/// A topic longer than this is a story; it is put before the message instead of into it.
pub(super) const TOPIC_CHARS: usize = 14;

// What a question asks around its topic.
pattern!(
    ASKING = r"怎么(?:样|办|弄|回事|操作|才能)?|怎样|如何|咋样?|为什么|为啥|什么时候(?:能|可以|会)?|是什么(?:意思)?|什么意思|什么|啥|在哪(?:里|儿)?|哪里|哪儿|哪些?(?:个|种|家)?|是?多少钱?|(?:要|需要|得)?(?:多久|多长时间|几(?:天|个月|小时|个工作日|年|分钟))(?:到账|能到|到|可以|才)?|是谁(?:的|写的)?|谁是|是不是|能不能|可不可以|会不会|有没有|要不要|可以|能否|可否|吗|么|嘛|呢|吧|啊|呀|[?？。.!！~～,，、]"
);
pattern!(
    ASKER = r"^(?:请问|我(?:们)?(?:想|要|需要|打算|准备|可以|能)?(?:问|咨询|了解|知道|看看|买|办|查|找|去)?(?:一下|下|的)?|你们?(?:有没有|有|这|那|家|平时|最|都|能|会|会不会|可以)?(?:听说过?|知道|认识|喜欢|看过|听过|了解|觉得|见过|去过|玩过|吃过|爱)?|想(?:要|去|买|看|问|吃)?|听说过?|知道|认识|喜欢|看过|最近|话说|关于|有(?:没有)?|是不是|能不能|能否|可否|可以|能)+"
);
/// Words for a kind of thing: “什么零食” asks which one.
const KINDS: &str = " 零食 水果 菜 菜品 乐器 运动 组织 动画 动画片 节目 综艺 综艺节目 职业 专业 学校 大学 公司 品牌 手机 衣服 鞋 酒店 餐馆 饭店 公园 商场 商品 产品 套餐 女生 男生 女孩子 男孩子 小姐 美女 帅哥 机器人 宝贝 ";

/// What was asked last and what was said to it.
pub(super) struct Exchange {
    /// The customer's last question, made to stand alone.
    pub(super) asked: String,
    /// Empty when nothing was said to it yet.
    pub(super) replied: String,
}

impl Exchange {
    /// What `message` after this exchange is most likely about.
    pub(super) fn topic(&self, message: &str) -> Option<String> {
        if is_latin(&self.asked) {
            return bare_question(&self.asked);
        }
        candidates::best(self, message)
    }

    /// The same for a search: where the question and the reply name one each that is about as
    /// likely, both.
    pub(super) fn topics(&self, message: &str) -> Option<String> {
        if is_latin(&self.asked) {
            return bare_question(&self.asked);
        }
        candidates::best_of_each(self, message)
    }

    /// The place that was named, if any.
    pub(super) fn place(&self) -> Option<&str> {
        place_in(&self.asked).or_else(|| place_in(&self.replied))
    }

    /// Whether `message` names what was named before.
    pub(super) fn named_in(&self, message: &str) -> bool {
        let mut named = things(&self.asked).into_iter().chain(things(&self.replied));
        named.any(|thing| thing.chars().nth(1).is_some() && message.contains(&thing))
    }
}

pub(super) fn place_in(text: &str) -> Option<&str> {
    tagged(text).into_iter().find(|found| found.tag == "ns").map(|found| found.word)
}

/// The things that a text names, each with its attributes before and “的” inside; kinds are none.
pub(super) fn things(text: &str) -> Vec<String> {
    let mut things = Vec::new();
    let mut open = Run::default();
    for (word, part) in parts(text) {
        match part {
            Part::Thing | Part::Attribute => {
                open.text.push_str(word);
                if part == Part::Thing {
                    open.named |= !KINDS.contains(&format!(" {word} "));
                    open.end = open.text.len();
                }
            }
            Part::Frame if word == "的" && !open.text.is_empty() => open.text.push_str(word),
            Part::Frame | Part::Predicate(_) => things.extend(std::mem::take(&mut open).close()),
        }
    }
    things.extend(open.close());
    things
}

/// Words that follow each other and name one thing.
#[derive(Default)]
struct Run {
    text: String,
    /// Where the last thing ends; what follows it are attributes.
    end: usize,
    named: bool,
}

impl Run {
    fn close(mut self) -> Option<String> {
        self.text.truncate(self.end);
        let fits = (1..=TOPIC_CHARS).contains(&self.text.chars().count());
        (self.named && fits).then_some(self.text)
    }
}

pub(super) fn asks(text: &str) -> bool {
    ASKING.is_match(text)
}

/// The question's own frame (“多少钱”), where it is not the first thing said.
pub(super) fn frame_of(question: &str) -> Option<regex::Match<'_>> {
    ASKING.find(question).filter(|frame| frame.start() > 0)
}

/// The question without the asking.
pub(super) fn body_of(question: &str) -> String {
    let body = MARKER.replace(question, "");
    let asked = ASKER.replace(&body, "");
    let topic = ASKING.replace_all(&asked, "").trim().to_owned();
    let topic = topic.strip_prefix('的').unwrap_or(&topic);
    topic.trim_end_matches(['的', '了', '要', '是']).to_owned()
}

/// The same; `None` when too much or nothing is left.
fn bare_question(question: &str) -> Option<String> {
    let topic = body_of(question);
    let points_away = PRONOUN.captures_iter(&topic).any(|c| c.name("p").is_some());
    ((2..=TOPIC_CHARS).contains(&topic.chars().count()) && !points_away).then_some(topic)
}
