<?xml version="1.0" encoding="UTF-8"?>
<!-- A first look at a file of a job as a page, at {base}/{service}/async/{id}/{results|logs}/{item}/preview. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:p="urn:uwsd:preview"
    exclude-result-prefixes="p">

  <xsl:import href="page.xsl"/>

  <xsl:variable name="file">
    <xsl:choose>
      <xsl:when test="/p:preview/@of = 'results'"><xsl:value-of select="concat('result ', /p:preview/@item)"/></xsl:when>
      <xsl:otherwise><xsl:value-of select="concat('log ', /p:preview/@item)"/></xsl:otherwise>
    </xsl:choose>
  </xsl:variable>

  <xsl:template match="/p:preview">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat(@name, ' of job ', @job)"/>
      <xsl:with-param name="root" select="'../../../../../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../../../../async">Jobs</a></li>
        <li><a href="../../../{@job}"><xsl:value-of select="concat('Job ', @job)"/></a></li>
        <li><span aria-current="page"><xsl:value-of select="@name"/></span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="@name"/></h1>
        <p class="faint">
          <xsl:value-of select="concat(@type, ', ')"/>
          <xsl:call-template name="size"><xsl:with-param name="of" select="@size"/></xsl:call-template>
          <xsl:if test="@part"><xsl:value-of select="concat('; this is its ', @part)"/></xsl:if>
          <xsl:text>. </xsl:text>
          <a href="../{@item}"><xsl:value-of select="concat('The whole of ', @name)"/></a>
        </p>
        <xsl:apply-templates select="p:problem"/>
        <xsl:if test="@picture"><p><img class="quick" src="./{@picture}" alt="Quick look at {@name}" loading="lazy"/></p></xsl:if>
        <xsl:apply-templates select="p:text | p:table | p:header"/>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="p:problem"><p class="problem"><xsl:value-of select="."/></p></xsl:template>

  <xsl:template match="p:text[. = '']"><p>It is empty.</p></xsl:template>

  <xsl:template match="p:text">
    <pre class="scroll" tabindex="0" role="region" aria-label="Text of {$file}"><xsl:value-of select="."/></pre>
  </xsl:template>

  <xsl:template match="p:header">
    <pre class="scroll" tabindex="0" role="region" aria-label="Header {count(preceding-sibling::p:header) + 1} of {$file}"><xsl:value-of select="."/></pre>
  </xsl:template>

  <xsl:template match="p:table">
    <div class="scroll" role="region" aria-label="Table {count(preceding-sibling::p:table) + 1} of {$file}" tabindex="0">
      <table>
        <thead>
          <tr>
            <xsl:for-each select="p:column">
              <th scope="col">
                <xsl:value-of select="."/>
                <xsl:if test="@unit != ''"><xsl:text> </xsl:text><span class="unit"><xsl:value-of select="concat('(', @unit, ')')"/></span></xsl:if>
              </th>
            </xsl:for-each>
          </tr>
        </thead>
        <tbody>
          <xsl:for-each select="p:row">
            <tr><xsl:for-each select="p:cell"><td><xsl:value-of select="."/></td></xsl:for-each></tr>
          </xsl:for-each>
        </tbody>
      </table>
    </div>
  </xsl:template>

</xsl:stylesheet>
