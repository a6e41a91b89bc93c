//! How much a message says by itself: things, attributes of things, what is said of them, and frame.

use crate::base::pattern::pattern;
use crate::base::text::is_han;
use crate::base::words::tagged;

// Matters that name a topic although their characters are also frames (还款) or bare verbs.
pattern!(
    TOPICAL = r"还款|还钱|还贷|借款|借钱|贷款|退款|退货|换货|退换|付款|扣款|提现|取现|充值|转账|提额|发票|运费|快递|物流|订单|优惠券|红包|积分|会员|额度|账单|密码|注册|注销|登[录陆]|实名|认证|客服|投诉|保修|维修|售后|尺码|库存|发货|签收|逾期|征信|保险|理赔|分期|利率|银行卡|手机号"
);
pattern!(
    FRAME = r"怎么(?:样|办|弄|回事|操作|还|才能|能|会|可以)?|怎样|如何|咋样?|为什么|为啥|什么时候|什么|啥时候?|哪些?(?:里|儿|个|种|家)?|在哪|多少钱?|多久|多长时间|多长|多大|几(?:天|个|点|次|小时|个月|号|年|块|分钟|工作日)?|什么样|谁|是不是|能不能|可不可以|会不会|有没有|要不要|需不需要|行不行|好不好|可以|能够?|需要?|应该|必须|要|会|有|是|在|到底|大概|一般|现在|今天|明天|一定|真的?|也|都|还|就|才|再|又|先|后|已经|一下|一个|一直|吗|么|嘛|呢|吧|啊|呀|哦|了|的|得|地|过|着|我们?|你们?|您|他们?|她|它|这个?|那个?|这样|那样|自己|不|没有?|别|很|太|好|对|和|跟|给|把|被|从|到|让|用|想|去|来|里|上|下|以|为|请|帮|哪|最|最快|最晚|最多|最少|最高|最低|直接|另外|重新|提前|免费|收费|[\s\pP\pS]"
);
pattern!(
    BARE = r"取消|开通|关门|开门|办理?|弄|操作|申请|查询?|看|找|开始?|关闭?|修改|更改|改|设置|处理|提交|解除|解决|恢复|生效|到账?|收到?|发|寄|拿|领取?|使用|激活|绑定?|解绑|通过|成功|失败|行|安全|靠谱|合适|划算|快|慢|贵|便宜|好用|手续费|利息|费用|收费|条件|材料|资料|证件|流程|步骤|时间|期限|次数|限制|金额|价格|方式|方法|地方|地址|电话|原因|区别|影响|优惠|要求|结果|进度|钱|买|选|填|写|说|问|知道|算|做|等|换|退|加|减|交|付|联系|推荐|喜欢|认识|看过|听过|玩|吃|喝|学|去过|觉得|支持|适合|包括|包含"
);

// What opens a guessed word that says something instead of naming something (“太苦”, “没听过”).
pattern!(DEGREE = r"^[太很超挺好真不没最更蛮都也又别有无]\p{Han}+$");

/// Attributes and parts: they belong to something, and only that something is a topic.
const RELATIONAL: &str = " 作者 主角 主演 演员 女演员 男演员 男主 女主 男主角 女主角 导演 主持人 结局 剧情 内容 故事 情节 画面 主题 主题曲 原著 版本 时间 时候 地方 地点 位置 路线 国家 城市 价格 价钱 原因 理由 方法 方式 办法 区别 影响 优惠 要求 结果 进度 手续费 利息 费用 收费 条件 材料 资料 证件 流程 步骤 期限 次数 限制 金额 地址 电话 号码 钱 人 人家 大家 东西 意思 问题 感觉 名字 图 图片 照片 样子 歌 歌曲 歌词 歌手 新歌 专辑 书 小说 电影 电视剧 动漫 游戏 作品 天气 味道 口味 颜色 风格 关系 事 事情 好处 坏处 缺点 优点 特点 功能 作用 效果 寓意 含义 部分 情况 质量 声音 男朋友 女朋友 朋友 老婆 老公 爸爸 妈妈 儿子 女儿 粉丝 家 家乡 国籍 民族 性别 年龄 生日 星座 身高 体重 长相 性格 心情 爱好 评价 评论 看法 建议 经验 技巧 诀窍 信息 介绍 例子 类型 种类 牌子 款式 型号 尺寸 大小 重量 长度 高度 面积 温度 气温 人口 交通 美食 景点 特产 小吃 路 今天 明天 后天 昨天 现在 第一季 第二季 ";

/// Verbs and moods that chat about anything.
const LIGHT: &str = " 觉得 感觉 喜欢 知道 认识 看 听 吃 玩 说 想 喝 真的 好看 好听 好玩 好吃 爱 去 有 哈哈 哈哈哈 呵呵 嘿嘿 ";

fn in_list(list: &str, word: &str) -> bool {
    list.contains(&format!(" {word} "))
}

/// What a word does in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Names something that can be asked about.
    Thing,
    Attribute,
    /// Says something of a thing; how much, in characters.
    Predicate(usize),
    Frame,
}

/// The words of a text, each with its part.
pub(super) fn parts(text: &str) -> Vec<(&str, Part)> {
    tagged(text).into_iter().map(|found| (found.word, part(found.word, found.tag))).collect()
}

fn part(word: &str, tag: &str) -> Part {
    let chars = word.chars().count();
    if TOPICAL.is_match(word) {
        return Part::Thing;
    }
    if !word.chars().any(char::is_alphanumeric) || FRAME.replace_all(word, "").is_empty() {
        return Part::Frame;
    }
    if in_list(RELATIONAL, word) {
        return Part::Attribute;
    }
    if word.bytes().any(|b| b.is_ascii_digit()) {
        return if tag == "m" { Part::Predicate(2) } else { Part::Thing };
    }
    if in_list(LIGHT, word) {
        return Part::Frame;
    }
    if tag == "x" && chars <= 3 && DEGREE.is_match(word) {
        return Part::Predicate(chars - 1);
    }
    match (tag.as_bytes(), tag) {
        ([b'n' | b's' | b'x' | b'i' | b'j' | b'b', ..], _) | (_, "eng" | "vn" | "an") => {
            Part::Thing
        }
        // Idioms and states name something only when they are long.
        ([b'l' | b'z', ..], _) if chars > 3 => Part::Thing,
        ([b'v' | b'a', ..], _) if BARE.replace_all(word, "").is_empty() => Part::Predicate(1),
        ([b'v' | b'a', ..], _) => Part::Predicate(chars),
        _ => Part::Frame,
    }
}

/// Whether it names nothing but attributes (“价格”).
pub(super) fn is_attribute(text: &str) -> bool {
    let parts = parts(text);
    parts.iter().any(|(_, part)| *part == Part::Attribute)
        && parts.iter().all(|(_, part)| matches!(part, Part::Attribute | Part::Frame))
}

/// Whether it only says something, and that it is not or no longer so (“还没吃”).
pub(super) fn denies(text: &str) -> bool {
    let parts = parts(text);
    parts.iter().any(|(_, part)| matches!(part, Part::Predicate(_)))
        && parts.iter().all(|(_, part)| matches!(part, Part::Predicate(_) | Part::Frame))
        && !names_matter(text)
        && (text.contains(['没', '不', '要']) || text.ends_with('了'))
}

/// Most characters of attributes and predicates that still lean on a topic (“手续费多少”).
const LEANING_CHARS: usize = 3;

/// Whether a message names nothing that it could be about. One `marked` by “那” or “还有” leans
/// more heavily.
pub(super) fn leans(text: &str, marked: bool) -> bool {
    if is_latin(text) {
        return latin_content(&text.to_lowercase()) <= usize::from(marked) * 2;
    }
    if names_matter(text) {
        return false;
    }
    let mut said = 0;
    for (word, part) in parts(text) {
        match part {
            Part::Thing => return false,
            Part::Attribute => said += word.chars().count(),
            Part::Predicate(chars) => said += chars,
            Part::Frame => {}
        }
    }
    said <= LEANING_CHARS + usize::from(marked)
}

/// Whether a message names what was named before, so that nothing needs to be carried over.
pub(super) fn shares_topic(text: &str, earlier: &str) -> bool {
    let chars: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    chars.windows(2).any(|pair| {
        let pair: String = pair.iter().collect();
        let telling = BARE.replace_all(&pair, "");
        earlier.contains(&pair) && FRAME.replace_all(&telling, "").chars().nth(1).is_some()
    })
}

/// Whether it names a matter of the service, as a thing or as what is done (“还款”).
pub(super) fn names_matter(text: &str) -> bool {
    TOPICAL.is_match(text)
}

/// How many matters of the service it names.
pub(super) fn matters(text: &str) -> usize {
    TOPICAL.find_iter(text).count()
}

/// Whether it does something that needs an object (“取消”).
pub(super) fn has_bare_verb(text: &str) -> bool {
    BARE.is_match(text)
}

/// True when nothing is left besides question words and particles.
pub(super) fn is_frame(text: &str) -> bool {
    !is_latin(text) && FRAME.replace_all(text, "").is_empty()
}

/// How much a text names: two for a topic, a Latin word or a number; one for each other
/// character that is no frame and for each bare verb or attribute. “怎么取消” has one.
pub(super) fn own_content(text: &str) -> usize {
    let lower = text.to_lowercase();
    if is_latin(&lower) {
        return latin_content(&lower);
    }
    let topics = TOPICAL.find_iter(&lower).count();
    let without = TOPICAL.replace_all(&lower, " ");
    let bare = BARE.find_iter(&without).count();
    let without = BARE.replace_all(&without, " ");
    let without = FRAME.replace_all(&without, " ");
    let mut count = 2 * topics + bare;
    let mut in_word = false;
    for c in without.chars() {
        let latin = c.is_alphanumeric() && !is_han(c);
        count += if is_han(c) { 1 } else { 2 * usize::from(latin && !in_word) };
        in_word = latin;
    }
    count
}

pub(super) fn is_latin(text: &str) -> bool {
    text.chars().any(char::is_alphabetic) && !text.chars().any(is_han)
}

/// English words that name nothing.
const LATIN_FRAME: &str = " how what when where why who which is are was were do does did can could will would should may might long much many to the a an i you we my your it they them this that one me of for in on at and or so then but about if cancel change get have need take cost work there here any more same also too please ok yes no not be ";

fn latin_content(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !LATIN_FRAME.contains(&format!(" {word} ")))
        .count()
        * 2
}
