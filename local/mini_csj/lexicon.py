"""The words of mini-CSJ.

Every word is written with characters of JIS X 0208 (CSJ's Shift-JIS) and is read in one way only. Topic words occur only
in talks of their topic, general words in every talk. No two of these share a reading, so their spelling follows from the
sound. The homophones are the exception: groups of words of one sound whose spelling depends on the topic of the talk, so
that a recognizer has to remember what the talk is about. The tests check all of this.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Topic(NamedTuple):
    """Words of one topic: nouns, and nouns that become verbs with する."""

    nouns: tuple[str, ...]
    actions: tuple[str, ...]


class Verb(NamedTuple):
    """A native verb: stem before ます, plain form, た form, て form."""

    stem: str
    plain: str
    past: str
    te: str


def _topic(nouns: str, actions: str) -> Topic:
    return Topic(tuple(nouns.split()), tuple(actions.split()))


TOPICS: dict[str, Topic] = {
    "language": _topic(
        "音声 言語 文章 単語 母音 子音 辞書 方言 会話 漢字 敬語 俳句 小説 童話 物語 作者 読者 随筆 比喩 話題 "
        "名詞 句読点 段落 ローマ字 アクセント ＡＩ",
        "翻訳 朗読 録音 暗記 引用 要約 執筆 添削 解釈 認識",
    ),
    "medicine": _topic(
        "病院 患者 医師 血液 心臓 薬品 症状 免疫 細胞 睡眠 体温 筋肉 神経 脳波 呼吸 皮膚 視力 聴覚 栄養 胃腸 "
        "肝臓 頭痛 ウイルス ビタミン ＣＴ ＤＮＡ",
        "診断 手術 治療 検査 予防 投与 回復 感染 入院 消毒",
    ),
    "cooking": _topic(
        "野菜 果物 牛乳 砂糖 醤油 味噌 豆腐 弁当 朝食 夕飯 食卓 茶碗 包丁 小麦 大根 昆布 鶏肉 刺身 和食 献立 "
        "台所 冷蔵庫 米粒 スープ チーズ バター",
        "調理 試食 冷凍 加熱 注文 収穫 保存 乾燥 発酵 配膳",
    ),
    "travel": _topic(
        "海岸 山脈 河川 湖畔 森林 温泉 旅館 駅前 列車 切符 空港 地図 景色 港町 砂漠 草原 灯台 土産 郷土 寺院 "
        "神社 庭園 紅葉 ホテル バス ＧＰＳ",
        "観光 宿泊 出発 到着 予約 散策 登山 撮影 案内 移動",
    ),
    "history": _topic(
        "武士 将軍 幕府 貴族 王朝 帝国 革命 憲法 裁判 選挙 議会 市民 条約 遺跡 古墳 農民 身分 宗教 仏像 儀式 "
        "伝統 戦争 平和 城壁 キリスト教 ヨーロッパ",
        "統一 支配 改革 独立 交渉 発掘 征服 廃止 継承 普及",
    ),
    "nature": _topic(
        "惑星 銀河 宇宙 望遠鏡 隕石 太陽 月面 台風 気圧 雷雲 梅雨 地震 火山 津波 岩石 化石 恐竜 昆虫 鳥類 植物 "
        "種子 氷河 微生物 ロケット エネルギー ＮＡＳＡ",
        "観測 蒸発 噴火 進化 繁殖 飼育 採集 分布 予報 循環",
    ),
    "economy": _topic(
        "企業 株式 市場 銀行 資金 利益 貿易 工場 製品 部品 車両 電池 半導体 燃料 価格 給料 社員 顧客 店舗 倉庫 "
        "需要 税金 コスト システム ＬＥＤ ＰＣ",
        "投資 販売 輸出 製造 雇用 経営 開発 削減 契約 融資",
    ),
    "arts": _topic(
        "楽器 旋律 和音 拍手 舞台 映画 俳優 脚本 絵画 彫刻 陶芸 色彩 写真 劇場 観客 選手 監督 球場 柔道 体操 "
        "教室 黒板 生徒 ピアノ リズム ＣＤ",
        "演奏 練習 鑑賞 創作 応援 指導 放送 卒業 優勝 展示",
    ),
}


class Homophones(NamedTuple):
    """Words of one pronunciation: their reading in katakana and the spelling that each topic asks for."""

    reading: str
    by_topic: dict[str, str]

    @property
    def spellings(self) -> tuple[str, ...]:
        """In the order of the topics that use them, each once."""
        return tuple(dict.fromkeys(self.by_topic.values()))


# Two fields, humanities and sciences, decide: each spelling of a group serves the four topics of one field, so that a
# recognizer needs to remember one thing of what was said, and a model of 2 M parameters can learn to within minutes.
# All spellings have two characters.
HUMANITIES = ("language", "travel", "history", "arts")
FIELDS = {topic: "文系" if topic in HUMANITIES else "理系" for topic in TOPICS}
HOMOPHONES = tuple(
    Homophones(reading, {topic: humanities if topic in HUMANITIES else sciences for topic in TOPICS})
    for reading, humanities, sciences in (
        ("カガク", "科学", "化学"),
        ("キカイ", "機会", "機械"),
        ("ソーゾー", "想像", "創造"),
        ("ショーメー", "証明", "照明"),
        ("シジ", "支持", "指示"),
        ("カンシン", "感心", "関心"),
    )
)
_FIRST_SPELLING = {word: group.spellings[0] for group in HOMOPHONES for word in group.spellings}
_ANY_HOMOPHONE = re.compile("|".join(_FIRST_SPELLING))


def without_topic(text: str) -> str:
    """text with every homophone spelled in the first way of its group: equal for texts that sound the same."""
    return _ANY_HOMOPHONE.sub(lambda match: _FIRST_SPELLING[match.group()], text)


# How the Latin words above are spoken: (A シーティー;ＣＴ) in the transcript.
LATIN: dict[str, str] = {
    "ＡＩ": "エーアイ",
    "ＣＴ": "シーティー",
    "ＤＮＡ": "ディーエヌエー",
    "ＧＰＳ": "ジーピーエス",
    "ＮＡＳＡ": "ナサ",
    "ＬＥＤ": "エルイーディー",
    "ＰＣ": "ピーシー",
    "ＣＤ": "シーディー",
}

GENERAL_NOUNS = tuple(
    "結果 問題 方法 理由 目的 課題 資料 特徴 影響 関係 状態 役割 基準 手順 効果 構造 性質 範囲 価値 条件".split()
)
GENERAL_ACTIONS = tuple("説明 研究 調査 分析 比較 実験 報告 確認 検討 評価 準備 紹介".split())

VERBS = tuple(
    Verb(*word.split("/"))
    for word in (
        "調べ/調べる/調べた/調べて 集め/集める/集めた/集めて 使い/使う/使った/使って 選び/選ぶ/選んだ/選んで "
        "作り/作る/作った/作って 見つけ/見つける/見つけた/見つけて 決め/決める/決めた/決めて "
        "求め/求める/求めた/求めて 示し/示す/示した/示して 防ぎ/防ぐ/防いだ/防いで 守り/守る/守った/守って "
        "残し/残す/残した/残して 学び/学ぶ/学んだ/学んで 伝え/伝える/伝えた/伝えて 育て/育てる/育てた/育てて "
        "届け/届ける/届けた/届けて 描き/描く/描いた/描いて 支え/支える/支えた/支えて 並べ/並べる/並べた/並べて "
        "失い/失う/失った/失って"
    ).split()
)

I_ADJECTIVES = tuple(
    "新しい 古い 大きい 小さい 高い 低い 長い 短い 強い 弱い 難しい 面白い 美しい 珍しい 速い 深い 厳しい 詳しい".split()
)
NA_ADJECTIVES = tuple("重要 静か 便利 複雑 簡単 自由 正確 危険 豊か 適切 有名 特別".split())

# What follows a form of a verb at the end of an utterance, or before its next clause, and how often.  Lectures are
# full of such phrases; they also give a recognizer something to hold on to before it knows the words.
FINAL_ENDINGS = (
    (("stem", "ました"), 5), (("stem", "ます"), 3), (("te", "います"), 2), (("stem", "ません"), 1),
    (("stem", "たいと思います"), 3), (("plain", "ということが分かりました"), 3), (("plain", "ことができます"), 2),
    (("past", "ということです"), 2), (("plain", "必要があります"), 2), (("past", "という結果になりました"), 1),
)  # fmt: skip
LINKING_ENDINGS = (
    (("te", ""), 3), (("past", "ので"), 3), (("stem", "ましたが"), 3), (("plain", "ために"), 2),
    (("plain", "ことによって"), 2), (("te", "いますので"), 2), (("stem", "ながら"), 1),
)  # fmt: skip

# The same for clauses that hold homophones.  They are short, so that much of the text is decided by the topic.
SHORT_FINAL_ENDINGS = ((("stem", "ました"), 3), (("stem", "ます"), 2), (("te", "います"), 1))
SHORT_LINKING_ENDINGS = ((("te", ""), 2), (("past", "ので"), 2), (("stem", "ましたが"), 1))
# Between two homophones, and between a topic word and a homophone: at least three characters that tell nothing,
# because a stateless predictor of two tokens would otherwise find the spelling of the second in that of the first.
LINKS = tuple("だけでなく と同時に に加えて のほかに をはじめ".split())
FIELD_PHRASES = ("の話ですが", "の講義では", "の場合は")
TOPIC_LINKS = tuple("については にあるのは のための といえば".split())

TIMES = tuple("今年は 去年は 昨日は 毎日 現在は 最近は 将来は 今回は 最初は 最後は 午前は 午後は".split())
OPENERS = tuple("それでは 次に まず また しかし そこで 例えば さらに つまり ところで 一方 その後".split())
FILLERS = ("えー", "えーと", "あの", "まあ", "あー", "そのー", "うーん")
NAMES = ("山田", "佐藤", "鈴木", "高橋")  # heard in training talks and hidden as (R ××)
# Counters whose sound never changes the numeral before them beyond what the front-end reads correctly.
COUNTERS = tuple("年 枚 度 円 秒 台 点 番 人 パーセント".split())
DIGITS = "〇一二三四五六七八九"


def spoken(word: str) -> str:
    """The word as it is written in the first half of an (A ...;...) tag, or unchanged."""
    return LATIN.get(word, word)
